-- aside_end: shared by the scripts that each job calls: the end of `aside`.
return {
  was_tried = was_tried,
  fal_settings = fal_settings, limit_of = limit_of, is_claimable = is_claimable, is_at_fal = is_at_fal,
  enter_fal = enter_fal, leave_fal = leave_fal, standing_in = standing_in,
  turn_settings = turn_settings, filled = filled, is_full = is_full, pass_turn = pass_turn, enter = enter, take_slot = take_slot,
  leave_slot = leave_slot, ring = ring,
  first_of_model = first_of_model, hold_for_model = hold_for_model,
}
end

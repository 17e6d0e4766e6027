//! The methods: each runs its checks in the order of section 8 and then changes what users see.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::body::{self, Call, Upload};
use super::check::*;
use super::fetch::Trouble;
use super::markup::{self, Formatted};
use super::{
    Chat, ChatKind, Entry, FILE_BY_URL, FileSeen, Kind, Message, PHOTO_BY_URL, Parked, Part,
    Shared, State,
};
use crate::sandbox::http::{Gate, Handler, Payload, Request, Response, lock};
use crate::sandbox::media;
use crate::sandbox::unix_ms;

impl Shared {
    pub(super) fn violation(&self, text: String) {
        let mut list = lock(&self.violations);
        // A bound: a client in a loop must not fill the memory of the test.
        if list.len() < 10_000 {
            list.push(text);
        }
    }

    pub(super) fn watch(&self, request: &Request) {
        if request.header("expect").is_some() {
            self.violation("expect: Expect: 100-continue is never answered".into());
        }
        let secrets = lock(&self.secrets);
        let in_headers = |secret: &str| {
            request
                .headers
                .iter()
                .any(|(_, value)| value.contains(secret))
        };
        if secrets
            .iter()
            .any(|secret| request.mentions(secret) || in_headers(secret))
        {
            self.violation("foreign-secret: another service's key came to Telegram".into());
        }
    }

    /// Body, then token, then method: the order of the real server.
    pub(super) fn serve(&self, request: &Request) -> Response {
        let began = Instant::now();
        self.watch(request);
        if !matches!(request.method.as_str(), "GET" | "POST") {
            self.violation(format!("501: method {}", request.method));
            return Response::refusal(501);
        }
        let call = match body::read(request) {
            Ok(call) => call,
            Err(status) => {
                self.violation(format!(
                    "{status}: body trouble in a {} request",
                    method_of(&request.path)
                ));
                return Response::refusal(status);
            }
        };
        call.complaints
            .iter()
            .for_each(|complaint| self.violation(complaint.clone()));
        let method = method_of(&request.path);
        let outcome = match self.refuse_token(&request.path) {
            Some(refusal) => Err(refusal),
            None => self.run(&method, &call),
        };
        let (status, description, ids, response) = match outcome {
            Ok(done) => {
                let body = json!({"ok": true, "result": done.result}).to_string();
                (200, String::new(), done.ids, Response::json(200, body))
            }
            Err(refusal) => {
                self.judge(&method, &refusal);
                let mut body =
                    json!({"ok": false, "error_code": refusal.code, "description": refusal.text});
                let mut response = Response::json(refusal.code, "");
                if let Some(parameters) = refusal.parameters {
                    if let Some(after) = parameters["retry_after"].as_u64() {
                        response = response.with_header("Retry-After", after.to_string());
                    }
                    body["parameters"] = parameters;
                }
                let text = body.to_string().into_bytes();
                response.body = Payload::Bytes(text);
                (refusal.code, refusal.text, Vec::new(), response)
            }
        };
        if self.keep_journal.load(Ordering::Relaxed) {
            let part = |file: &Upload<'_>| Part {
                name: file.part.clone(),
                file_name: file.file_name.clone(),
                fingerprint: media::fingerprint(file.bytes),
            };
            let entry = Entry {
                at: Instant::now(),
                unix_ms: unix_ms(),
                took: began.elapsed(),
                chat: call.integer("chat_id"),
                args: call.journal(),
                parts: call.files.iter().map(part).collect(),
                method,
                status,
                description,
                message_ids: ids,
            };
            lock(&self.journal).push(entry);
        }
        response
    }

    pub(super) fn token(&self) -> String {
        lock(&self.tokens).last().cloned().unwrap_or_default()
    }

    pub(super) fn refuse_token(&self, path: &str) -> Option<Refusal> {
        let refusal = |code, text: &str| {
            Some(Refusal {
                code,
                text: text.into(),
                parameters: None,
            })
        };
        let Some(rest) = path.strip_prefix("/bot") else {
            return refusal(404, "Not Found");
        };
        let token = rest.split('/').next().unwrap_or("");
        if token == self.token() {
            return None;
        }
        let sound = token.split_once(':').is_some_and(|(number, secret)| {
            !secret.is_empty()
                && !number.starts_with('0')
                && number.parse::<u64>().is_ok_and(|n| n < 1 << 54)
        });
        refusal(
            401,
            if sound {
                "Unauthorized"
            } else {
                "Unauthorized: invalid token specified"
            },
        )
    }

    /// Refusals that only a wrong client gets.
    pub(super) fn judge(&self, method: &str, refusal: &Refusal) {
        let ours = [
            "Not Found",
            "Bad Request: chat_id is empty",
            "Bad Request: there is no ",
            "Bad Request: parameter \"media\" is required",
            "Bad Request: can't parse media JSON",
            "Bad Request: can't parse input media JSON",
            "Bad Request: expected an Array",
            "Bad Request: can't parse InputMedia: expected",
            "Bad Request: can't parse InputMedia: media",
            "Bad Request: can't parse InputMedia: type",
            "Bad Request: there are no messages to send",
            "Bad Request: message identifier is not specified",
            "Bad Request: wrong parameter action",
            "Bad Request: can't parse reply parameters",
        ];
        // "there is no text (caption, media) in the message to edit" depends on the message, not on the client.
        let of_message = refusal.text.ends_with("in the message to edit");
        if !of_message && ours.iter().any(|prefix| refusal.text.starts_with(prefix)) {
            self.violation(format!("bad-request: {method}: {}", refusal.text));
        }
    }

    pub(super) fn run(&self, method: &str, call: &Call<'_>) -> Result<Done, Refusal> {
        match method {
            "getme" => Ok(Done::plain(self.bot_user())),
            "sendmessage" => self.send_one(call, Kind::Text),
            "sendphoto" => self.send_one(call, Kind::Photo),
            "senddocument" => self.send_one(call, Kind::Document),
            "sendvideo" => self.send_one(call, Kind::Video),
            "sendanimation" => self.send_one(call, Kind::Animation),
            "sendaudio" => self.send_one(call, Kind::Audio),
            "sendmediagroup" => self.send_album(call),
            "sendchataction" => self.chat_action(call),
            "editmessagetext" => self.edit_text(call),
            "editmessagemedia" => self.edit_media(call),
            "editmessagecaption" => self.edit_caption(call),
            "deletemessage" => self.delete_one(call),
            "deletemessages" => self.delete_many(call),
            "getfile" => self.get_file(call),
            _ => Err(Refusal {
                code: 404,
                text: "Not Found: method not found".into(),
                parameters: None,
            }),
        }
    }

    pub(super) fn bot_user(&self) -> Value {
        let id: u64 = self
            .token()
            .split(':')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        json!({"id": id, "is_bot": true, "first_name": "Sandbox", "username": "sandbox_bot",
               "can_join_groups": true, "can_read_all_group_messages": false, "supports_inline_queries": false})
    }

    pub(super) fn send_one(&self, call: &Call<'_>, kind: Kind) -> Result<Done, Refusal> {
        let mode = call.text("parse_mode");
        let item;
        let named;
        if kind == Kind::Text {
            let raw = call.text("text");
            if raw.len() > 32768 {
                return Err(bad("text is too long"));
            }
            let text = markup::parse(&raw, &mode).map_err(bad)?;
            if text.text.is_empty() {
                return Err(bad(if raw.is_empty() {
                    "message text is empty"
                } else {
                    "text must be non-empty"
                }));
            }
            item = Item {
                kind,
                source: None,
                text,
                spoiler: false,
                keep_as_file: false,
            };
        } else {
            named = call.text(kind.field());
            let source = file_source(call, kind.field(), &named)
                .ok_or_else(|| bad(format!("there is no {} in the request", kind.field())))?;
            item = Item {
                kind,
                source: Some(source),
                text: markup::parse(&call.text("caption"), &mode).map_err(bad)?,
                spoiler: call.flag("has_spoiler") && can_be_hidden(kind),
                keep_as_file: call.flag("disable_content_type_detection"),
            };
        }
        if call.flag("has_spoiler") && !can_be_hidden(kind) {
            self.violation(format!("ignored: has_spoiler of send{}", kind.title()));
        }
        let (reply, keyboard) = (reply_target(call)?, keyboard(call)?);
        let messages = self.send(call, reply, keyboard, vec![item], Wording::Single)?;
        let ids = messages.iter().map(|message| message.id).collect();
        let result = messages
            .first()
            .map_or(Value::Null, |message| self.message_json(message));
        Ok(Done { result, ids })
    }

    pub(super) fn send_album(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        let media = match call.object("media") {
            None => return Err(bad("parameter \"media\" is required")),
            Some(Err(())) => return Err(bad("can't parse media JSON object")),
            Some(Ok(Value::Array(media))) => media,
            Some(Ok(_)) => return Err(bad("expected an Array of InputMedia")),
        };
        if media.is_empty() {
            return Err(bad("there are no messages to send"));
        }
        if media.len() > 10 {
            return Err(bad("too many messages to send as an album"));
        }
        let items = media
            .iter()
            .map(|one| input_media(call, one, true))
            .collect::<Result<Vec<_>, _>>()?;
        for alone in [Kind::Document, Kind::Audio] {
            let count = items.iter().filter(|item| item.kind == alone).count();
            if count != 0 && count != items.len() {
                return Err(bad(format!(
                    "{} can't be mixed with other media types",
                    alone.field()
                )));
            }
        }
        if !call.text("reply_markup").is_empty() {
            self.violation("ignored: reply_markup of sendMediaGroup".into());
        }
        let wording = if items.len() == 1 {
            Wording::Single
        } else {
            Wording::Album
        };
        // Even a broken keyboard is not looked at.
        let messages = self.send(
            call,
            reply_target(call)?,
            Keyboard::default(),
            items,
            wording,
        )?;
        let ids = messages.iter().map(|message| message.id).collect();
        Ok(Done {
            result: messages
                .iter()
                .map(|message| self.message_json(message))
                .collect(),
            ids,
        })
    }

    /// From the parsed items on: section 8, "order of checks, sends".
    pub(super) fn send(
        &self,
        call: &Call<'_>,
        reply: Option<ReplyTarget>,
        keyboard: Keyboard,
        items: Vec<Item<'_>>,
        wording: Wording,
    ) -> Result<Vec<Message>, Refusal> {
        let (chat_id, reply_to, thread) = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let chat_id = self.find_chat(state, call)?;
            let chat = chat_of(state, chat_id)?;
            let thread = call
                .integer("message_thread_id")
                .filter(|thread| *thread != 0);
            if thread.is_some_and(|thread| !chat.topics.contains(&thread)) {
                return Err(bad("message thread not found"));
            }
            let reply_to = match reply {
                Some(target) if chat.messages.contains_key(&target.id) => Some(target.id),
                Some(target) if !target.may_be_missing => {
                    return Err(bad("message to be replied not found"));
                }
                Some(_) | None => None,
            };
            for item in &items {
                check_item(&state.files, item)?;
            }
            let chat = chat_of(state, chat_id)?;
            if let Some(item) = items
                .iter()
                .find(|item| chat.forbidden.contains(&item.kind))
            {
                return Err(bad(format!(
                    "not enough rights to send {} to the chat",
                    item.kind.plural()
                )));
            }
            (chat_id, reply_to, thread)
        };
        let mut files = Vec::with_capacity(items.len());
        for (number, item) in items.iter().enumerate() {
            files.push(
                self.obtain(item, wording)
                    .map_err(|refusal| in_album(refusal, number, wording))?,
            );
        }
        self.pass_upstream(chat_id, &keyboard, items.len(), wording)?;
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let cut = if wording == Wording::Album {
            state.album_cut.take()
        } else {
            None
        };
        let kept = cut.map_or(items.len(), |cut| cut.min(items.len()));
        state.sends += kept as u64;
        let hide_id = std::mem::take(&mut state.hide_next_id);
        let group = (wording == Wording::Album).then(|| {
            state.next_group += 1;
            format!("{}", 13_000_000_000_000_000 + state.next_group)
        });
        let chat = chat_of(state, chat_id)?;
        let mut sent = Vec::with_capacity(items.len());
        for (item, file) in items.into_iter().zip(files).take(kept) {
            let message = Message {
                chat: chat_id,
                id: chat.next_id,
                kind: shown_kind(&item, file.as_ref()),
                text: item.text.text,
                entities: item.text.entities,
                file,
                keyboard: keyboard.inline.clone(),
                reply_keyboard: keyboard.other,
                reply_to,
                thread,
                media_group: group.clone(),
                spoiler: item.spoiler,
                protected: call.flag("protect_content"),
                silent: call.flag("disable_notification"),
                date: unix_ms() / 1000,
                edit_date: None,
                edits: 0,
            };
            chat.next_id += 1;
            chat.messages.insert(message.id, message.clone());
            sent.push(message);
        }
        if cut.is_some() {
            return Err(in_album(too_many(Duration::from_secs(3)), kept, wording));
        }
        if hide_id {
            sent.iter_mut().for_each(|message| message.id = 0);
        }
        Ok(sent)
    }

    /// Blocks, buttons, floods; waits inside when the wait is short.
    pub(super) fn pass_upstream(
        &self,
        chat_id: i64,
        keyboard: &Keyboard,
        n: usize,
        wording: Wording,
    ) -> Result<(), Refusal> {
        let wait = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let ignore_block = wording == Wording::Edit && !state.edits_fail_when_blocked;
            let chat = chat_of(state, chat_id)?;
            if let Some(dead) = chat
                .dead
                .clone()
                .filter(|dead| dead.upstream && !ignore_block)
            {
                self.note_dead(chat, chat_id);
                if let (Wording::Album, Some(raw)) = (wording, dead.raw) {
                    return Err(in_album(bad(raw), 0, wording));
                }
                return Err(chat_refusal(&dead));
            }
            check_buttons(keyboard)?;
            self.flood(state, chat_id, n as f64, true)?
        };
        if !wait.is_zero() {
            self.stop.sleep(wait);
        }
        Ok(())
    }

    pub(super) fn note_dead(&self, chat: &mut Chat, chat_id: i64) {
        if chat.told_dead {
            self.violation(format!(
                "dead-chat: another request to chat {chat_id} after it was refused for good"
            ));
        }
        chat.told_dead = true;
    }

    /// How long to hold the answer; a longer wait is a 429, and whoever ignores that waits longer.
    pub(super) fn flood(
        &self,
        state: &mut State,
        chat_id: i64,
        n: f64,
        counts_for_chat: bool,
    ) -> Result<Duration, Refusal> {
        let (limits, now) = (state.limits, Instant::now());
        let swallow = if counts_for_chat {
            limits.swallow
        } else {
            limits.swallow.min(Duration::from_secs(2))
        };
        let rate = if chat_id < 0 {
            limits.group
        } else {
            limits.chat
        };
        let bot_wait = state.bot_bucket.wait(limits.bot, n, now);
        let State {
            chats,
            bot_bucket,
            bot_parked,
            ..
        } = state;
        let Some(chat) = chats.get_mut(&chat_id) else {
            return Err(bad("chat not found"));
        };
        let chat_wait = if counts_for_chat {
            chat.bucket.wait(rate, n, now)
        } else {
            Duration::ZERO
        };
        for parked in [&mut chat.parked, &mut *bot_parked] {
            let Some(until) = parked.until else { continue };
            if until <= now {
                *parked = Parked::default();
                continue;
            }
            self.violation(format!(
                "too-early: a request to chat {chat_id} before retry_after was over"
            ));
            parked.ignored += 1;
            let longer = until + Duration::from_secs(u64::from(parked.ignored) * 2);
            parked.until = Some(longer);
            return Err(too_many(longer - now));
        }
        let wait = bot_wait.max(chat_wait);
        if wait > swallow {
            let refusal = too_many(wait);
            let after = refusal
                .parameters
                .as_ref()
                .and_then(|p| p["retry_after"].as_u64())
                .unwrap_or(1);
            // The client may round: a request 50 ms early is not "before".
            let until = now + Duration::from_secs(after) - Duration::from_millis(50);
            let parked = if bot_wait > chat_wait {
                bot_parked
            } else {
                &mut chat.parked
            };
            *parked = Parked {
                until: Some(until),
                ignored: 0,
            };
            return Err(refusal);
        }
        bot_bucket.take(n);
        if counts_for_chat {
            chat.bucket.take(n);
        }
        state.held += u64::from(wait >= Duration::from_millis(100));
        Ok(wait)
    }

    /// The chat of a request, with membership.
    pub(super) fn find_chat(&self, state: &mut State, call: &Call<'_>) -> Result<i64, Refusal> {
        let text = call.text("chat_id");
        if text.is_empty() {
            return Err(bad("chat_id is empty"));
        }
        let id = match text.strip_prefix('@') {
            Some(name) => state.names.get(name).copied(),
            None => text.trim().parse::<i64>().ok(),
        };
        let id = id.ok_or_else(|| bad("chat not found"))?;
        if (1..10_000_000).contains(&id) {
            state
                .chats
                .entry(id)
                .or_insert_with(|| Chat::new(ChatKind::Private));
        }
        let Some(chat) = state.chats.get_mut(&id) else {
            return Err(bad("chat not found"));
        };
        if let Some(to) = chat.migrated_to {
            return Err(Refusal {
                parameters: Some(json!({ "migrate_to_chat_id": to })),
                ..bad("group chat was upgraded to a supergroup chat")
            });
        }
        if let Some(dead) = chat.dead.clone().filter(|dead| !dead.upstream) {
            self.note_dead(chat, id);
            return Err(chat_refusal(&dead));
        }
        Ok(id)
    }

    /// Gets the file of an item: fetches, or looks at the upload.
    pub(super) fn obtain(
        &self,
        item: &Item<'_>,
        wording: Wording,
    ) -> Result<Option<FileSeen>, Refusal> {
        let file = match item.source {
            None => return Ok(None),
            Some(Source::Upload(upload)) => {
                let looks = media::look(upload.bytes);
                if item.kind == Kind::Photo {
                    check_photo(looks)?;
                }
                if !is_sound_name(&upload.file_name, item.kind, looks) {
                    self.violation(format!(
                        "file-name: \"{}\" of a {} that is {}",
                        upload.file_name,
                        item.kind.field(),
                        looks.media_type()
                    ));
                }
                FileSeen {
                    file_id: String::new(),
                    fingerprint: media::fingerprint(upload.bytes),
                    via_url: None,
                    upload_name: Some(upload.file_name.clone()),
                    media_type: looks.media_type(),
                    dimensions: looks.dimensions(),
                    kind: item.kind,
                }
            }
            Some(Source::Named(name)) if name.contains('.') => {
                return self.fetch(name, item.kind, wording).map(Some);
            }
            Some(Source::Named(id)) => return Ok(lock(&self.state).files.get(id).cloned()),
        };
        Ok(Some(self.register(file)))
    }

    /// Gives a new file its id.
    pub(super) fn register(&self, mut file: FileSeen) -> FileSeen {
        let mut state = lock(&self.state);
        state.next_file += 1;
        let sum = file.fingerprint.hash ^ file.fingerprint.len;
        file.file_id = format!(
            "AgACAgIAAxkDAAI{:06x}{sum:016x}{}",
            state.next_file,
            file.kind.field().len()
        );
        state.files.insert(file.file_id.clone(), file.clone());
        file
    }

    pub(super) fn fetch(
        &self,
        url: &str,
        kind: Kind,
        wording: Wording,
    ) -> Result<FileSeen, Refusal> {
        let curl_failed = || match wording {
            Wording::Album => bad("WEBPAGE_CURL_FAILED"),
            Wording::Single | Wording::Edit => bad("failed to get HTTP URL content"),
        };
        let wrong_type = || match wording {
            Wording::Album => bad("WEBPAGE_MEDIA_EMPTY"),
            Wording::Single | Wording::Edit => bad("wrong type of the web page content"),
        };
        if let Some(known) = lock(&self.by_url).get(url) {
            if known.is_empty() {
                return Err(wrong_type());
            }
            if let Some(file) = known.iter().find(|file| file.kind == kind) {
                return Ok(file.clone());
            }
        }
        let limit = if kind == Kind::Photo {
            PHOTO_BY_URL
        } else {
            FILE_BY_URL
        };
        let fetched = match self.fetcher.get(url, limit) {
            Ok(fetched) => fetched,
            Err(trouble) => {
                if trouble == Trouble::NotAllowed {
                    self.violation(format!(
                        "fetch-host: a URL of a host that is not allowed was sent: {}",
                        host_of(url)
                    ));
                }
                lock(&self.by_url).insert(url.to_owned(), Vec::new());
                return Err(curl_failed());
            }
        };
        let content_type = fetched.content_type.as_str();
        let fits = match kind {
            Kind::Text => false,
            Kind::Photo => content_type.starts_with("image/"),
            Kind::Document => matches!(content_type, "application/pdf" | "application/zip"),
            Kind::Video => content_type == "video/mp4",
            Kind::Animation => matches!(content_type, "image/gif" | "video/mp4"),
            Kind::Audio => matches!(content_type, "audio/mpeg" | "audio/mp4"),
        };
        let looks = media::look(&fetched.bytes);
        let checked = match kind {
            _ if !fits || fetched.bytes.is_empty() => Err(wrong_type()),
            Kind::Photo => check_photo(looks),
            _ => Ok(()),
        };
        if let Err(refusal) = checked {
            lock(&self.by_url).insert(url.to_owned(), Vec::new());
            return Err(refusal);
        }
        let file = self.register(FileSeen {
            file_id: String::new(),
            fingerprint: media::fingerprint(&fetched.bytes),
            via_url: Some(url.to_owned()),
            upload_name: None,
            media_type: looks.media_type(),
            dimensions: looks.dimensions(),
            kind,
        });
        lock(&self.by_url)
            .entry(url.to_owned())
            .or_default()
            .push(file.clone());
        Ok(file)
    }

    pub(super) fn chat_action(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        const ACTIONS: [&str; 14] = [
            "typing",
            "upload_photo",
            "record_video",
            "upload_video",
            "record_voice",
            "upload_voice",
            "upload_document",
            "choose_sticker",
            "find_location",
            "record_video_note",
            "upload_video_note",
            "record_audio",
            "upload_audio",
            "cancel",
        ];
        if !ACTIONS.contains(&call.text("action").to_ascii_lowercase().as_str()) {
            return Err(bad("wrong parameter action in request"));
        }
        let wait = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let chat_id = self.find_chat(state, call)?;
            let chat = chat_of(state, chat_id)?;
            if let Some(dead) = chat.dead.clone() {
                self.note_dead(chat, chat_id);
                return Err(chat_refusal(&dead));
            }
            self.flood(state, chat_id, 1.0, false)?
        };
        self.stop.sleep(wait);
        Ok(Done::plain(Value::Bool(true)))
    }

    pub(super) fn edit_text(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        let raw = call.text("text");
        if raw.len() > 32768 {
            return Err(bad("text is too long"));
        }
        let text = markup::parse(&raw, &call.text("parse_mode")).map_err(bad)?;
        if text.text.is_empty() {
            return Err(bad(if raw.is_empty() {
                "message text is empty"
            } else {
                "text must be non-empty"
            }));
        }
        self.edit(call, Edit::Text(text))
    }

    pub(super) fn edit_caption(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        let caption =
            markup::parse(&call.text("caption"), &call.text("parse_mode")).map_err(bad)?;
        self.edit(call, Edit::Caption(caption))
    }

    pub(super) fn edit_media(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        // The keyboard's JSON is looked at before the media's.
        keyboard(call)?;
        let media = match call.object("media") {
            None => return Err(bad("parameter \"media\" is required")),
            Some(Err(())) => return Err(bad("can't parse input media JSON object")),
            Some(Ok(media)) => media,
        };
        if !call.text("parse_mode").is_empty() || !call.text("caption").is_empty() {
            self.violation(
                "ignored: parse_mode or caption of editMessageMedia outside of media".into(),
            );
        }
        self.edit(call, Edit::Media(input_media(call, &media, false)?))
    }

    /// Section 8, "edits", and section 6.
    pub(super) fn edit(&self, call: &Call<'_>, edit: Edit<'_>) -> Result<Done, Refusal> {
        let keyboard = keyboard(call)?;
        let (chat_id, id, turn) = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let chat_id = self.find_chat(state, call)?;
            let id = call.integer("message_id").filter(|id| *id > 0);
            let id = id.ok_or_else(|| bad("message identifier is not specified"))?;
            let older = state.older_than_7_11;
            let chat = chat_of(state, chat_id)?;
            let message = chat
                .messages
                .get(&id)
                .ok_or_else(|| bad("message to edit not found"))?;
            check_editable(message, &edit, older)?;
            match &edit {
                Edit::Text(text) if text.characters() > 4096 => {
                    return Err(bad("MESSAGE_TOO_LONG"));
                }
                Edit::Caption(text) if text.characters() > 1024 => {
                    return Err(bad("MEDIA_CAPTION_TOO_LONG"));
                }
                Edit::Media(item) => check_item(&state.files, item)?,
                Edit::Text(_) | Edit::Caption(_) => {}
            }
            let chat = chat_of(state, chat_id)?;
            if let (Edit::Media(item), Some(message)) = (&edit, chat.messages.get(&id)) {
                check_album_rules(message, item.kind)?;
            }
            if keyboard.other {
                return Err(bad("inline keyboard expected"));
            }
            let turn = chat.edits.entry(id).or_default();
            *turn += 1;
            (chat_id, id, *turn)
        };
        let file = match &edit {
            Edit::Media(item) => self.obtain(item, Wording::Edit)?,
            Edit::Text(_) | Edit::Caption(_) => None,
        };
        self.pass_upstream(chat_id, &keyboard, 1, Wording::Edit)?;
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let chat = chat_of(state, chat_id)?;
        if chat.edits.get(&id) != Some(&turn) {
            return Err(bad("canceled by new edit message request"));
        }
        let message = chat
            .messages
            .get_mut(&id)
            .ok_or_else(|| bad("message was deleted"))?;
        let mut new = message.clone();
        new.keyboard = keyboard.inline;
        match edit {
            Edit::Text(text) | Edit::Caption(text) => {
                (new.text, new.entities) = (text.text, text.entities)
            }
            Edit::Media(item) => {
                new.kind = shown_kind(&item, file.as_ref());
                new.spoiler = item.spoiler;
                new.file = file;
                (new.text, new.entities) = (item.text.text, item.text.entities);
            }
        }
        if new == *message {
            return Err(bad(
                "message is not modified: specified new message content and reply markup are exactly the same as a \
                 current content and reply markup of the message",
            ));
        }
        new.edit_date = Some(unix_ms() / 1000);
        new.edits += 1;
        *message = new.clone();
        state.edits += 1;
        drop(guard);
        Ok(Done {
            result: self.message_json(&new),
            ids: vec![id],
        })
    }

    pub(super) fn delete_one(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        let not_found = || bad("message to delete not found");
        let (chat_id, id, wait) = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let chat_id = self.find_chat(state, call)?;
            let id = call.integer("message_id").filter(|id| *id > 0);
            let id = id.ok_or_else(|| bad("message identifier is not specified"))?;
            if !chat_of(state, chat_id)?.messages.contains_key(&id) {
                return Err(not_found());
            }
            (chat_id, id, self.flood(state, chat_id, 1.0, true)?)
        };
        self.stop.sleep(wait);
        let removed = chat_of(&mut lock(&self.state), chat_id)?
            .messages
            .remove(&id);
        removed
            .map(|_| Done::plain(Value::Bool(true)))
            .ok_or_else(not_found)
    }

    pub(super) fn delete_many(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let chat_id = self.find_chat(state, call)?;
        let ids = match call.object("message_ids") {
            Some(Ok(Value::Array(ids))) if !ids.is_empty() => ids,
            _ => return Err(bad("message identifiers are not specified")),
        };
        if ids.len() > 100 {
            return Err(bad("too many message identifiers specified"));
        }
        let wait = self.flood(state, chat_id, 1.0, true)?;
        drop(guard);
        self.stop.sleep(wait);
        let mut guard = lock(&self.state);
        let chat = chat_of(&mut guard, chat_id)?;
        for id in ids.iter().filter_map(Value::as_i64) {
            chat.messages.remove(&id);
        }
        Ok(Done::plain(Value::Bool(true)))
    }

    pub(super) fn get_file(&self, call: &Call<'_>) -> Result<Done, Refusal> {
        let id = call.text("file_id");
        if id.is_empty() {
            return Err(bad("file_id not specified"));
        }
        let state = lock(&self.state);
        let file = state.files.get(&id).ok_or_else(|| bad("invalid file_id"))?;
        if file.fingerprint.len > FILE_BY_URL {
            return Err(bad("file is too big"));
        }
        let mut result = file_json(file);
        result["file_path"] = Value::from(state.sent.path_of(file)?);
        Ok(Done::plain(result))
    }

    pub(super) fn message_json(&self, message: &Message) -> Value {
        let chat_kind = lock(&self.state)
            .chats
            .get(&message.chat)
            .map_or("private", |chat| chat.kind.word());
        let mut map = Map::new();
        map.insert("message_id".into(), message.id.into());
        map.insert("from".into(), self.bot_user());
        map.insert(
            "chat".into(),
            json!({"id": message.chat, "type": chat_kind}),
        );
        map.insert("date".into(), message.date.into());
        let mut put = |name: &str, value: Option<Value>| {
            value.map(|value| map.insert(name.into(), value));
        };
        put("edit_date", message.edit_date.map(Value::from));
        put("message_thread_id", message.thread.map(Value::from));
        put(
            "media_group_id",
            message.media_group.as_deref().map(Value::from),
        );
        put(
            "reply_to_message",
            message.reply_to.map(|id| json!({"message_id": id})),
        );
        put(
            "has_media_spoiler",
            message.spoiler.then_some(Value::Bool(true)),
        );
        put(
            "has_protected_content",
            message.protected.then_some(Value::Bool(true)),
        );
        put("reply_markup", message.keyboard.clone());
        let (text, entities) = match message.kind {
            Kind::Text => ("text", "entities"),
            _ => ("caption", "caption_entities"),
        };
        let formatted = Formatted {
            text: message.text.clone(),
            entities: message.entities.clone(),
        };
        put(
            entities,
            (!formatted.entities.is_empty()).then(|| formatted.entities_json()),
        );
        put(
            text,
            (!formatted.text.is_empty()).then(|| Value::from(formatted.text)),
        );
        if let Some(file) = &message.file {
            let one = file_json(file);
            match message.kind {
                Kind::Photo => {
                    let mut small = one.clone();
                    small["file_id"] = Value::from(format!("{}s", file.file_id));
                    put("photo", Some(json!([small, one])));
                }
                Kind::Animation => {
                    put("document", Some(one.clone()));
                    put("animation", Some(one));
                }
                kind => put(kind.field(), Some(one)),
            }
        }
        Value::Object(map)
    }
}

impl Handler for Shared {
    fn gate(&self, head: &Request) -> Gate {
        if head
            .content_length
            .is_some_and(|length| length > self.body_limit.load(Ordering::Relaxed))
        {
            let body =
                json!({"ok": false, "error_code": 413, "description": "Request Entity Too Large"});
            return Gate::Answer(Response::json(413, body.to_string()));
        }
        self.faults.at_head(&endpoint(head), head)
    }

    fn body_limit(&self) -> u64 {
        self.body_limit.load(Ordering::Relaxed)
    }

    fn answer(&self, request: &Request) -> Response {
        let endpoint = endpoint(request);
        self.faults.around(&endpoint, request, &self.stop, || {
            let response = if endpoint == "tg.file" {
                self.download(request)
            } else {
                self.serve(request)
            };
            self.barriers.pass(&endpoint, request);
            response
        })
    }
}

pub(super) fn endpoint(request: &Request) -> String {
    if request.path.starts_with("/file/") {
        return "tg.file".to_owned();
    }
    format!("tg.{}", method_of(&request.path))
}

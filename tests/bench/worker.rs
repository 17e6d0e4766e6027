//! What a job costs and how many are held, in numbers: `cargo bench --bench worker -- PART… [--jobs N]
//! [--threads N] [--rounds N] [--against PROGRAM]`. Parts: `cpu`, `latency`, `small`, `growth`, `beside`, `flight`; the
//! long ones are `growth-long` and `flight-long`. Without a part all short ones run. It prints and judges nothing:
//! machines differ, so everything that is compared ran in the same call, in turns.

mod common;
mod cpu;
mod flight;
mod floor;
mod growth;
mod latency;
mod records;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|word| word == floor::WORD) {
        return floor::child(&args[1..]);
    }
    let parts: [(&str, fn(), bool); 8] = [
        ("cpu", cpu::run, true),
        ("latency", latency::run, true),
        ("small", latency::small, true),
        ("growth", growth::run, true),
        ("beside", growth::beside, true),
        ("flight", flight::run, true),
        ("growth-long", growth::long, false),
        ("flight-long", flight::long, false),
    ];
    let named = parts
        .iter()
        .any(|(name, ..)| args.iter().any(|arg| arg == name));
    for (name, part, short) in parts {
        if args.iter().any(|arg| arg == name) || (!named && short) {
            part();
        }
    }
}

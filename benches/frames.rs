//! What a chunk of sixty samples costs to pack, to unpack and to recognise,
//! and how small it becomes.

mod line;

use divan::Bencher;
use divan::counter::ItemsCount;
use iot_agent::clock::BootId;
use iot_agent::record::Run;
use iot_agent::sensor::simulated::Profile;
use iot_agent::spool::chunk::{Chunk, Entry, Header, MAX_FRAME_BYTES};
use line::Head;

const SAMPLES: i64 = 60;

/// What is packed: a profile, sampled every so many seconds.
const CASES: [(Profile, i64); 4] = [
    (Profile::Realistic, 1),
    (Profile::Realistic, 10),
    (Profile::Uniform, 1),
    (Profile::Uniform, 10),
];

fn main() {
    println!("{SAMPLES} samples in one frame; the spool splits above {MAX_FRAME_BYTES} bytes");
    for case in CASES {
        let chunk = chunk(case);
        let raw: usize = chunk.entries.iter().map(Entry::payload_bytes).sum();
        let frame = chunk.encode().len();
        let ratio = frame as f64 / raw as f64;
        println!("{case:?} s: payload {raw} B, frame {frame} B, compressed/raw {ratio:.3}");
    }
    divan::main();
}

#[divan::bench(args = CASES)]
fn encode(bencher: Bencher, case: (Profile, i64)) {
    let chunk = chunk(case);
    bencher.counter(ItemsCount::new(chunk.entries.len())).bench_local(|| chunk.encode());
}

#[divan::bench(args = CASES)]
fn decode(bencher: Bencher, case: (Profile, i64)) {
    let chunk = chunk(case);
    let frame = chunk.encode();
    bencher.counter(ItemsCount::new(chunk.entries.len())).bench_local(|| Chunk::decode(&frame));
}

#[divan::bench(args = CASES)]
fn read_header(bencher: Bencher, case: (Profile, i64)) {
    let frame = chunk(case).encode();
    bencher.bench_local(|| Header::read(&frame).is_ok());
}

fn chunk((profile, interval_s): (Profile, i64)) -> Chunk {
    let mut head = Head::new(profile);
    let samples = (0..SAMPLES).filter_map(|n| head.sample(n * interval_s));
    let entries: Vec<Entry> =
        samples.map(|s| Entry { seq: s.seq, at: s.at, body: s.body }).collect();
    Chunk {
        number: 1,
        device: "sim-0001".into(),
        run: Run(4_503_599_627_370_497),
        boot: BootId([7; 16]),
        simulated: true,
        foreign: false,
        stride_log2: 0,
        revision: 0,
        first_seq: 0,
        last_seq: entries.len() as u64 - 1,
        entries,
    }
}

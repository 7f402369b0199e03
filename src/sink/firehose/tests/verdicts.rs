//! What becomes of a batch, for everything that the service may do.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::TimeDelta;
use iot_agent_test_support::firehose::{Fault, Faults, FirehoseStandIn, Options};

use super::{DELIVERED, Order, Setup, line, says};

fn stand_in() -> FirehoseStandIn {
    FirehoseStandIn::start(Options::default())
}

#[test]
fn a_batch_arrives_byte_for_byte() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).start();
    assert_eq!(agent.made, format!("firehose iot-telemetry (eu-west-1 at {})", stand_in.url()));
    let parcels = [line(0) + &line(1), line(2)];
    let verdict = agent.deliver(&[&parcels[0], &parcels[1]]);
    assert_eq!(verdict, "Answered([Delivered, Delivered])");
    let stored = stand_in.stored();
    let records: Vec<&[u8]> = stored.records().iter().map(|record| &record[..]).collect();
    assert_eq!(records, parcels.each_ref().map(std::string::String::as_bytes));
    assert!(stored.missing("pi", 7, 3).is_empty());
    let agent_and_version = format!("lib/iot-agent/{}", env!("CARGO_PKG_VERSION"));
    says(&stand_in.stats().last_user_agent, &[&agent_and_version]);
}

#[test]
fn deliveries_share_one_connection_and_add_no_thread() {
    let stand_in = FirehoseStandIn::start(Options { tls: true, ..Options::default() });
    let mut agent = Setup::new(&stand_in).start();
    for seq in 0..5 {
        assert_eq!(agent.deliver(&[&line(seq)]), DELIVERED);
    }
    assert_eq!(stand_in.stats().connections, 1);
    assert_eq!(agent.order(&Order::Threads), "0");
}

#[test]
fn records_fail_one_by_one_and_in_order() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).start();
    stand_in.set_faults(Faults::Always(Fault::FailRecords(vec![1, 2])));
    let verdict = agent.deliver(&[&line(0), &line(1), &line(2), &line(3)]);
    says(
        &verdict,
        &[
            "Answered([Delivered, Retry(Trouble { kind: Throttled",
            "InternalFailure: Internal service failure.",
            "ServiceUnavailableException: Slow down.",
        ],
    );
    assert!(verdict.ends_with(", Delivered])"), "{verdict}");
    assert_eq!(stand_in.stored().missing("pi", 7, 4), [1, 2]);
}

/// Every way of failing as a whole: the fault, and what the verdict says.
fn failures() -> Vec<(Fault, Vec<&'static str>)> {
    let error = Fault::error;
    let user = "User: arn:aws:sts::123456789012:assumed-role/device/pi is not authorized to \
                perform: firehose:PutRecordBatch on resource: \
                arn:aws:firehose:eu-west-1:123456789012:deliverystream/iot-telemetry because no \
                identity-based policy allows the firehose:PutRecordBatch action";
    let skew = "Signature expired: 20261124T010000Z is now earlier than 20261124T030000Z";
    vec![
        (Fault::Throttle, vec!["Failed", "kind: Throttled", "asks for less", "Slow down."]),
        (Fault::Busy(7), vec!["Failed", "kind: Throttled", "Busy.", "retry_after: Some(7s)"]),
        (error(400, "LimitExceededException", "Rate"), vec!["Failed", "kind: Throttled"]),
        (error(500, "InternalFailure", ""), vec!["Failed", "kind: Throttled", "is ill"]),
        (Fault::Status(500), vec!["Failed", "kind: Throttled", "status 500"]),
        (Fault::Status(503), vec!["Failed", "kind: Throttled", "status 503"]),
        (Fault::Status(413), vec!["Refused", "kind: Data", "too large"]),
        (Fault::Status(404), vec!["Failed", "kind: BadAnswer", "status 404"]),
        (
            error(400, "ResourceNotFoundException", "Firehose x under account 1 not found."),
            vec![
                "Failed",
                "kind: Configuration",
                "no stream iot-telemetry in eu-west-1",
                "`aws firehose list-delivery-streams --region eu-west-1 --endpoint-url",
            ],
        ),
        (
            error(400, "AccessDeniedException", user),
            vec![
                "Failed",
                "kind: Credentials",
                "access key AKIASTANDIN00000 may not do firehose:PutRecordBatch",
                "deliverystream/iot-telemetry\\\"}",
                "--policy-source-arn arn:aws:iam::123456789012:role/device ",
            ],
        ),
        (
            error(400, "ExpiredTokenException", "expired"),
            vec!["Failed", "kind: Credentials", "has expired", "renew it"],
        ),
        (
            error(400, "UnrecognizedClientException", "invalid"),
            vec!["Failed", "kind: Credentials", "not known to AWS", "get-caller-identity"],
        ),
        (
            error(400, "InvalidSignatureException", skew),
            vec!["Failed", "kind: Credentials", "clock is wrong", "timedatectl"],
        ),
        (
            error(400, "InvalidArgumentException", "Value at 'deliveryStreamName' failed"),
            vec!["Failed", "kind: Configuration", "cannot be the name of a stream"],
        ),
        (
            error(
                400,
                "InvalidArgumentException",
                "This operation is not permitted on KinesisStreamAsSource delivery stream type.",
            ),
            vec!["Failed", "kind: Configuration", "no direct puts"],
        ),
        (error(400, "InvalidArgumentException", "bad"), vec!["Refused", "kind: Data"]),
        (error(400, "ValidationException", "bad"), vec!["Refused", "kind: Data"]),
        (error(418, "SomethingNew", "tea"), vec!["Failed", "kind: BadAnswer", "SomethingNew: tea"]),
        (Fault::Cut, vec!["Failed", "kind: Unanswered", "connection closed"]),
        (Fault::LoseAnswer, vec!["Failed", "kind: Unanswered"]),
        (Fault::Html, vec!["Failed", "kind: BadAnswer", "web page (Welcome to the guest network)"]),
        (Fault::Garbage, vec!["Failed", "kind: BadAnswer", "256 unreadable bytes"]),
        (Fault::Empty, vec!["Failed", "kind: BadAnswer", "outcomes for 0 records instead of 2"]),
        (Fault::WrongCount, vec!["Failed", "kind: BadAnswer", "outcomes for 1 records instead of"]),
    ]
}

#[test]
fn every_failure_has_its_verdict_and_none_counts_as_delivered() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).start();
    for (fault, words) in failures() {
        stand_in.set_faults(Faults::script([fault.clone()]));
        let verdict = agent.deliver(&[&line(0), &line(1)]);
        println!("{fault:?}\n    {verdict}");
        says(&verdict, &words);
        assert!(!verdict.contains("Delivered"), "{verdict}");
        assert!(!verdict.contains("\\n"), "more than one line: {verdict}");
    }
    assert_eq!(agent.deliver(&[&line(2)]), DELIVERED);
    // Stored, but never accounted for: the lost answer and the wrong count.
    assert_eq!(stand_in.stored().times("pi", 7, 0), 2);
}

/// Whether each record of a verdict was delivered.
fn delivered(verdict: &str, records: usize) -> Vec<bool> {
    let Some(outcomes) = verdict.strip_prefix("Answered([") else { return vec![false; records] };
    // Neither word occurs in the text of a trouble.
    let words = outcomes.split([' ', '(', '[', ',', ']']);
    let outcomes = words.filter_map(|word| match word {
        "Delivered" => Some(true),
        "Retry" | "Refused" => Some(false),
        _ => None,
    });
    outcomes.collect()
}

#[test]
fn whatever_goes_wrong_delivered_means_stored() {
    let seed = std::env::var("IOT_AGENT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("IOT_AGENT_TEST_SEED={seed}");
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).start();
    let percent = [
        (25, Fault::FailShare(0.4)),
        (8, Fault::Throttle),
        (8, Fault::Status(503)),
        (8, Fault::Cut),
        (8, Fault::LoseAnswer),
        (5, Fault::Html),
        (5, Fault::Garbage),
        (5, Fault::Empty),
        (8, Fault::WrongCount),
    ];
    stand_in.set_faults(Faults::mix(seed, percent));
    let mut delivered_in_all = 0;
    for batch in 0..150 {
        let seqs: Vec<u64> = (batch * 4..batch * 4 + 1 + batch % 4).collect();
        let lines: Vec<String> = seqs.iter().map(|seq| line(*seq)).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let verdict = agent.deliver(&lines);
        let outcomes = delivered(&verdict, seqs.len());
        assert_eq!(outcomes.len(), seqs.len(), "{verdict}");
        let stored = stand_in.stored();
        for (seq, delivered) in seqs.iter().zip(outcomes) {
            let times = stored.times("pi", 7, *seq);
            assert!(times == 1 || !delivered, "seq {seq}, stored {times} times: {verdict}");
            delivered_in_all += u64::from(delivered);
        }
    }
    let faults = stand_in.stats().faults;
    println!("{delivered_in_all} delivered, {} stored; {faults:?}", stand_in.stored().distinct());
    assert!(faults.len() >= 8 && delivered_in_all > 50);
}

#[test]
fn an_answer_that_does_not_come_is_waited_for_within_a_limit() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).start();
    agent.order(&Order::Impatience);
    stand_in.set_faults(Faults::script([Fault::Slow(300), Fault::Hang]));
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
    let start = Instant::now();
    let verdict = agent.deliver(&[&line(1)]);
    says(&verdict, &["Failed", "kind: Unanswered", "no answer within 3 s"]);
    assert!((3000..15_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(agent.deliver(&[&line(2)]), DELIVERED);
}

#[test]
fn a_batch_with_a_poisoned_record_is_refused_whole() {
    let stand_in = stand_in();
    stand_in.refuse_marked(Some("poison"));
    let mut agent = Setup::new(&stand_in).start();
    let poisoned = line(1).replace("cpu", "poison");
    says(&agent.deliver(&[&line(0), &poisoned]), &["Refused(Trouble { kind: Data"]);
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
}

#[test]
fn what_the_limits_allow_the_service_takes() {
    let stand_in = stand_in();
    let mut agent = Setup::new(&stand_in).start();
    let limits = super::super::LIMITS;
    let record = "x".repeat(limits.parcel_bytes);
    let rest = "x".repeat(limits.batch_bytes - limits.parcel_bytes);
    says(&agent.deliver(&[&record, &rest]), &["Answered"]);
    says(&agent.deliver(&vec!["x"; limits.batch_parcels]), &["Answered"]);
    says(&agent.deliver(&[&(record + "x")]), &["Refused(Trouble { kind: Data"]);
    says(&agent.deliver(&vec!["x"; limits.batch_parcels + 1]), &["Refused(Trouble { kind: Data"]);
}

#[test]
fn a_host_with_a_wrong_clock_delivers_at_the_second_try() {
    let three_hours = TimeDelta::hours(3);
    let options = Options { clock_ahead: three_hours, ..Options::default() };
    let stand_in = FirehoseStandIn::start(options);
    let mut agent = Setup::new(&stand_in).start();
    assert_eq!(agent.order(&Order::ServerTime), "None");
    says(&agent.deliver(&[&line(0)]), &["Failed", "kind: Credentials", "clock is wrong"]);
    assert_eq!(agent.deliver(&[&line(0)]), DELIVERED);
    let heard = agent.order(&Order::ServerTime);
    let heard_ms: u64 = heard.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let expected = SystemTime::now() + Duration::from_secs(3 * 3600);
    let off = expected.duration_since(UNIX_EPOCH).unwrap().as_millis().abs_diff(heard_ms.into());
    assert!(off < 30_000, "{off} ms away from the service's time");
}

#[test]
fn a_probe_tells_what_a_delivery_would_meet() {
    let probe = |options: Options| {
        let stand_in = FirehoseStandIn::start(options);
        Setup::new(&stand_in).start().probe()
    };
    let with_status = |status: &str| Options { stream_status: status.into(), ..Options::default() };
    says(&probe(with_status("ACTIVE")), &["Ok", "is active", "access key AKIASTANDIN00000"]);
    says(&probe(with_status("CREATING")), &["Err", "kind: Configuration", "being created"]);
    says(&probe(with_status("DELETING")), &["Err", "kind: Configuration", "DELETING"]);
    let options = Options { stream_type: "KinesisStreamAsSource".into(), ..Options::default() };
    says(&probe(options), &["Err", "kind: Configuration", "no direct puts"]);
    let options = Options { stream: "another".into(), ..Options::default() };
    says(&probe(options), &["Err", "kind: Configuration", "no stream iot-telemetry"]);

    let stand_in = stand_in();
    stand_in.set_faults(Faults::with(|call| match call.operation {
        "DescribeDeliveryStream" => Fault::error(400, "AccessDeniedException", "not permitted"),
        _ => Fault::None,
    }));
    let mut agent = Setup::new(&stand_in).start();
    says(&agent.probe(), &["Ok", "DescribeDeliveryStream is not permitted"]);
    stand_in.set_faults(Faults::Always(Fault::Html));
    says(&agent.probe(), &["Err", "kind: BadAnswer"]);
    stand_in.set_faults(Faults::Always(Fault::Empty));
    says(&agent.probe(), &["Err", "kind: BadAnswer"]);
    assert_eq!(stand_in.stored().totals().records, 0);
}

#[test]
fn after_silence_less_is_waited_for_but_now_and_then_more() {
    let seconds: Vec<u64> =
        (0..9).map(|silences| crate::sink::firehose::patience(silences).as_secs()).collect();
    assert_eq!(seconds, [10, 5, 5, 5, 30, 5, 5, 5, 30]);
}

//! What `iot-agent sample --json` says, held to what the system itself says at
//! that moment, and to made machines. Needs root, for the machines are made in
//! mount namespaces.

#![cfg(test)]

#[path = "sensors/hung.rs"]
mod hung;
#[path = "sensors/machine.rs"]
mod machine;

use std::fs;
use std::process::{Child, Command};

use machine::{Machine, record};
use serde_json::{Value, json};

/// A sample of this machine as it is.
fn sample() -> Value {
    let config = tempfile::NamedTempFile::new().unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_iot-agent"));
    agent.args(["sample", "--json", "--config"]).arg(config.path());
    record(&agent.output().unwrap()).0
}

fn stdout(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn lines_with(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}

/// Asserts that `value` lies between what was said before and after, give or
/// take `slack`.
#[track_caller]
fn assert_between(value: &Value, before: f64, after: f64, slack: f64) {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let range = before.min(after) - slack..=before.max(after) + slack;
    assert!(range.contains(&number), "{number} is not within {range:?}");
}

/// Kibibytes of a line of `/proc/meminfo`.
fn meminfo(key: &str) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Busy and all jiffies of all cores since boot.
fn jiffies() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields = text.lines().next().unwrap().split_whitespace().skip(1).take(8);
    let fields: Vec<f64> = fields.map(|field| field.parse().unwrap()).collect();
    let all: f64 = fields.iter().sum();
    (all - fields[3] - fields[4], all)
}

/// Bytes received and sent, of all interfaces but loopback.
fn network() -> (f64, f64) {
    let text = fs::read_to_string("/proc/net/dev").unwrap();
    let lines = text.lines().skip(2).map(|line| line.replace(':', " "));
    let counters = lines.map(|line| {
        let fields: Vec<String> = line.split_whitespace().map(String::from).collect();
        let number = |n: usize| fields[n].parse::<f64>().unwrap();
        if fields[0] == "lo" { (0.0, 0.0) } else { (number(1), number(9)) }
    });
    counters.fold((0.0, 0.0), |(rx, tx), (r, t)| (rx + r, tx + t))
}

/// First number of a file.
fn first_number(path: &str) -> f64 {
    fs::read_to_string(path).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

struct Burners(Vec<Child>);

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn cpu_is_the_busy_share_of_proc_stat() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let burner = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let burners = Burners((0..cores).map(|_| burner()).collect());
    let before = jiffies();
    let record = sample();
    let after = jiffies();
    drop(burners);
    let share = (after.0 - before.0) / (after.1 - before.1);
    assert!(share > 0.9, "the burners keep no core busy: {share}");
    assert_between(&record["cpu"], share, 1.0, 0.05);
}

#[test]
fn memory_is_that_of_meminfo_and_free() {
    let share = || 1.0 - meminfo("MemAvailable") / meminfo("MemTotal");
    let of_free = || {
        let text = stdout("free", &["--kibi", "--wide"]);
        let line = text.lines().find(|line| line.starts_with("Mem:")).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| fields[n].parse::<f64>().unwrap();
        1.0 - number(fields.len() - 1) / number(1)
    };
    let before = (share(), of_free());
    let record = sample();
    assert_between(&record["ram"], before.0, share(), 0.005);
    assert_between(&record["ram"], before.1, of_free(), 0.005);
    let has_swap = meminfo("SwapTotal") > 0.0;
    assert_eq!(record["swap"].is_number(), has_swap, "{record}");
}

#[test]
fn load_uptime_and_network_are_those_of_proc() {
    let seen = || (first_number("/proc/loadavg"), first_number("/proc/uptime"), network());
    let before = seen();
    let record = sample();
    let after = seen();
    assert_between(&record["load1"], before.0, after.0, 0.005);
    assert_between(&record["uptime_s"], before.1.floor(), after.1, 0.0);
    assert_between(&record["rx_bytes"], before.2.0, after.2.0, 0.0);
    assert_between(&record["tx_bytes"], before.2.1, after.2.1, 0.0);
}

/// Bytes read and written of each block device, by `major:minor`.
fn diskstats(device: &str) -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/diskstats").unwrap();
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| fields[n].parse::<f64>().unwrap() * 512.0;
        (format!("{}:{}", fields[0], fields[1]) == device).then(|| (number(5), number(9)))
    })
}

#[test]
fn disks_are_those_of_df() {
    /// Size and used share of the file system at a path.
    fn df(path: &str) -> (f64, f64) {
        let text = stdout("df", &["--block-size=1", "--output=size,used,avail", path]);
        let line = text.lines().nth(1).unwrap();
        let n: Vec<f64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        (n[0], n[1] / (n[1] + n[2]))
    }
    let device = stdout("findmnt", &["--noheadings", "--output", "MAJ:MIN", "/"]);
    let before = (df("/"), diskstats(device.trim()));
    let record = sample();
    let after = (df("/"), diskstats(device.trim()));
    assert_between(&record["hd"], before.0.1, after.0.1, 0.0005);
    for disk in record["disks"].as_array().unwrap() {
        let (size, used) = df(disk["mount"].as_str().unwrap());
        assert_eq!(disk["total_bytes"], size as u64);
        assert_between(&disk["used"], used, used, 0.001);
    }
    let root = record["disks"].as_array().unwrap().iter().find(|disk| disk["mount"] == "/");
    if let (Some(before), Some(after)) = (before.1, after.1) {
        let root = root.expect("a root on a block device is listed");
        assert_between(&root["read_bytes"], before.0, after.0, 0.0);
        assert_between(&root["written_bytes"], before.1, after.1, 0.0);
    }
}

#[track_caller]
fn assert_sensors(record: &Value, expected: &[(&str, f64)]) {
    let expected: Vec<Value> = expected
        .iter()
        .map(|(label, celsius)| json!({"label": label, "celsius": celsius}))
        .collect();
    assert_eq!(record["sensors"], Value::Array(expected));
}

#[test]
fn raspberry_pis() {
    let pi3 = Machine::new()
        .chip("cpu_thermal", &[("", "47774")])
        .chip("rpi_volt", &[])
        .zone("cpu-thermal", "47774")
        .firmware("soc/soc:firmware", "0");
    let (record, stderr) = pi3.sample(&[]);
    assert_eq!((&record["temperature"], &record["throttled"]), (&json!(47.774), &json!(0)));
    assert_sensors(&record, &[("cpu_thermal temp1", 47.774)]);
    assert!(!stderr.contains("left out"), "{stderr}");

    let pi4 = Machine::new()
        .chip("rpi_volt", &[])
        .chip("cpu_thermal", &[("", "80829")])
        .zone("cpu-thermal", "80829")
        .firmware("soc/soc:firmware", "50005");
    let (record, _) = pi4.sample(&[]);
    assert_eq!((&record["temperature"], &record["throttled"]), (&json!(80.829), &json!(0x50005)));

    let pi5 = Machine::new()
        .chip("rp1_adc", &[("", "52100")])
        .drive("nvme0", "Example SSD", "39850")
        .chip("cpu_thermal", &[("", "55650")])
        .chip("pwmfan", &[])
        .zone("cpu-thermal", "55650")
        .firmware("soc@107c000000:firmware", "e0008");
    let (record, _) = pi5.sample(&[]);
    assert_eq!((&record["temperature"], &record["throttled"]), (&json!(55.65), &json!(0xe0008)));
    let all = [
        ("rp1_adc temp1", 52.1),
        ("nvme Composite Example SSD", 39.85),
        ("cpu_thermal temp1", 55.65),
    ];
    assert_sensors(&record, &all);

    // A kernel without CONFIG_THERMAL_HWMON.
    let zero2 = Machine::new().zone("cpu-thermal", "44546").firmware("soc/soc:firmware", "50000");
    let (record, _) = zero2.sample(&[]);
    assert_eq!((&record["temperature"], &record["throttled"]), (&json!(44.546), &json!(0x50000)));
    assert_sensors(&record, &[("cpu-thermal", 44.546)]);
}

#[test]
fn an_x86_server_shows_every_core_and_drive() {
    let cores: Vec<String> = (0..64).map(|n| format!("Core {n}")).collect();
    let socket = |n: u32| {
        let mut all = vec![(format!("Package id {n}"), format!("{}", 61_000 + n * 1000))];
        all.extend(cores.iter().map(|core| (core.clone(), "58000".to_owned())));
        all
    };
    let [first, second] = [0, 1].map(socket);
    let mut machine = Machine::new().chip("acpitz", &[("", "27800")]);
    for (n, socket) in [first, second].iter().enumerate() {
        let temperatures: Vec<(&str, &str)> =
            socket.iter().map(|(label, text)| (label.as_str(), text.as_str())).collect();
        machine = machine.chip("coretemp", &temperatures).device(&format!("coretemp.{n}"));
    }
    let machine = machine
        .drive("nvme0", "Example SSD", "38850")
        .drive("nvme1", "Example SSD", "41850")
        .zone("acpitz", "27800")
        .zone("x86_pkg_temp", "61000")
        .zone("x86_pkg_temp", "62000");
    let (record, _) = machine.sample(&[]);
    assert_eq!(record["temperature"], json!(61.0));
    assert!(record.get("throttled").is_none());
    let sensors = record["sensors"].as_array().unwrap();
    let mut labels: Vec<&str> = sensors.iter().map(|s| s["label"].as_str().unwrap()).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), 1 + 2 * 65 + 2 + 2, "{labels:?}");
    let second = sensors.iter().find(|s| s["label"] == "nvme Composite Example SSD nvme1").unwrap();
    assert_eq!(second["celsius"], json!(41.85));
}

#[test]
fn an_amd_machine_and_a_named_sensor() {
    let machine = Machine::new()
        .chip("nvme", &[("Composite", "35850")])
        .chip("k10temp", &[("Tctl", "63250"), ("Tdie", "53250"), ("Tccd1", "51000")]);
    let (record, _) = machine.sample(&[]);
    assert_eq!(record["temperature"], json!(63.25));
    let (record, _) = machine.sample(&["--set", "sample.temperature_sensor=k10temp Tdie"]);
    assert_eq!(record["temperature"], json!(53.25));
    let (record, stderr) = machine.sample(&["--set", "sample.temperature_sensor=k10temp Tcase"]);
    assert!(record.get("temperature").is_none());
    assert_eq!(record["sensors"].as_array().unwrap().len(), 4);
    assert_eq!(lines_with(&stderr, "k10temp Tccd1"), 1, "{stderr}");
}

#[test]
fn a_machine_with_zones_alone_has_a_temperature() {
    let board = Machine::new()
        .zone("gpu-thermal", "41000")
        .zone("soc-thermal", "46111")
        .zone("bigcore0-thermal", "47000");
    let (record, _) = board.sample(&[]);
    assert_eq!(record["temperature"], json!(46.111));
    let all = [("gpu-thermal", 41.0), ("soc-thermal", 46.111), ("bigcore0-thermal", 47.0)];
    assert_sensors(&record, &all);
}

#[test]
fn a_bad_sensor_is_left_out_and_named_once() {
    for bad in ["999000", "-273000", "N/A", ""] {
        let machine = Machine::new().chip("cpu_thermal", &[("", bad), ("", "48000")]);
        let (record, stderr) = machine.sample(&[]);
        assert_sensors(&record, &[("cpu_thermal temp2", 48.0)]);
        assert_eq!(lines_with(&stderr, "hwmon0/temp1_input"), 1, "{stderr}");
    }
    let unreadable = Machine::new().chip("acpitz", &[("", "48000")]).zone("cpu-thermal", "0");
    let temp = unreadable.path().join("class/thermal/thermal_zone0/temp");
    fs::remove_file(&temp).unwrap();
    fs::create_dir(&temp).unwrap();
    let (record, stderr) = unreadable.sample(&[]);
    assert_sensors(&record, &[("acpitz temp1", 48.0)]);
    assert_eq!(record["temperature"], json!(48.0));
    assert_eq!(lines_with(&stderr, "thermal_zone0/temp"), 1, "{stderr}");
}

#[test]
fn nonsense_of_a_container_stays_within_bounds() {
    let machine = Machine::new().command(
        r#"printf 'MemTotal: 1000 kB\nMemFree: 900 kB\nMemAvailable: 4000 kB\nSwapTotal: 800 kB\nSwapFree: 200 kB\n' > "$0/meminfo"
mount --bind "$0/meminfo" /proc/meminfo"#,
    );
    let (record, _) = machine.sample(&[]);
    assert_eq!((&record["ram"], &record["swap"]), (&json!(0.0), &json!(0.75)));
}

#[test]
fn a_container_has_no_sensors_and_an_overlay_for_a_root() {
    let machine = Machine::new().command(
        r#"mkdir "$0/overlay" "$0/root" && mount -t tmpfs none "$0/overlay"
mkdir "$0/overlay/up" "$0/overlay/work"
mount -t overlay none -o "lowerdir=/,upperdir=$0/overlay/up,workdir=$0/overlay/work" "$0/root"
for top in proc sys dev; do mount --rbind "/$top" "$0/root/$top"; done
echo 127.0.0.1 localhost > "$0/hosts" && touch "$0/root/etc/hosts"
mount --bind "$0/hosts" "$0/root/etc/hosts"
shift; exec chroot "$0/root" "$@""#,
    );
    let (record, _) = machine.sample(&[]);
    assert!(record.get("temperature").is_none());
    assert!(record.get("sensors").is_none());
    let disks = record["disks"].as_array().unwrap();
    assert_eq!(disks.len(), 1, "{disks:?}");
    assert_eq!((&disks[0]["mount"], &disks[0]["fs"]), (&json!("/"), &json!("overlay")));
    assert!(record["hd"].as_f64().is_some_and(|hd| (0.0..=1.0).contains(&hd)));
    assert_eq!(record["hd"], disks[0]["used"]);
}

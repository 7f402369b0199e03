//! A lake that cannot be written for a while: what is sampled meanwhile stays
//! in the spool, and all of it arrives in the end.
//!
//! The agent gets a mount namespace of its own, with a file system made for it;
//! it ends with the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use iot_agent_test_support::duckdb;
use iot_agent_test_support::process::{Agent, Launch};
use iot_agent_test_support::records::number;

use super::{SOON, agent, assert_complete, begun, files, stop};

/// Has `script` prepare what only the agent sees.
fn in_namespace(launch: Launch, script: &str) -> Launch {
    let script = format!("set -e; {script}; exec \"$@\"");
    launch.wrapped_in(["unshare", "--mount", "sh", "-c", &script, "sh"])
}

/// A path as the agent sees it.
fn seen_by(agent: &Agent, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", agent.pid())).join(path.strip_prefix("/").unwrap())
}

struct Obstacle {
    /// Makes the lake's folder $LAKE one that takes nothing.
    begin: &'static str,
    /// What is said of it.
    said: [&'static str; 3],
    end: fn(&Agent, &Path),
}

const FULL: Obstacle = Obstacle {
    begin: "mount -t tmpfs -o size=512k tmpfs $LAKE; head -c 512k /dev/zero >$LAKE/ballast",
    said: ["lake", "No space left on device", "free some space there"],
    end: |agent, lake| fs::remove_file(seen_by(agent, lake).join("ballast")).unwrap(),
};

const READ_ONLY: Obstacle = Obstacle {
    begin: "mount -t tmpfs -o ro tmpfs $LAKE",
    said: ["lake", "Read-only file system", "mount the file system writable"],
    end: |agent, lake| {
        let pid = agent.pid().to_string();
        let mut remount = Command::new("nsenter");
        remount.args(["--mount", "--target", &pid, "mount", "-o", "remount,rw"]).arg(lake);
        assert!(remount.status().unwrap().success());
    },
};

#[test]
fn a_full_disk_delays_the_rows_and_loses_none() {
    assert_delays_and_loses_none(&FULL);
}

#[test]
fn a_read_only_disk_delays_the_rows_and_loses_none() {
    assert_delays_and_loses_none(&READ_ONLY);
}

#[track_caller]
fn assert_delays_and_loses_none(obstacle: &Obstacle) {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    fs::create_dir(&lake).unwrap();
    let script = obstacle.begin.replace("$LAKE", &lake.display().to_string());
    let launch = |word: &str| in_namespace(agent(home.path()).arg(word), &script);

    let mut check = launch("check").start();
    assert_eq!(check.finish(SOON).code(), Some(69), "{}", check.stdout());
    for words in obstacle.said {
        assert!(check.stdout().contains(words), "{words}: {}", check.stdout());
    }

    let mut agent = launch("run").start();
    agent.wait_for("a word about it", SOON, |agent| agent.stderr().contains(obstacle.said[1]));
    let said = agent.stderr();
    assert!(obstacle.said.iter().all(|words| said.contains(words)), "{said}");
    // Some tries later.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let seen = seen_by(&agent, &lake);
    assert!(!begun(&seen), "{:?}", files(&seen));
    (obstacle.end)(&agent, &lake);
    agent.wait_for("rows", SOON, |_| begun(&seen));
    agent.wait_for("the good news", SOON, |agent| agent.stderr().contains("delivering again"));
    agent.wait_for("what was kept", SOON, |_| {
        let rows = duckdb::query(&seen, "select count(*) as rows, max(seq) as last from lake");
        rows.first().is_some_and(|row| number(row, "rows") > number(row, "last"))
    });
    assert_complete(&seen);
    let rows = duckdb::query(&seen, "select count(*) as rows from lake");
    assert!(number(&rows[0], "rows") >= 50, "{rows:?}");
    let said = stop(agent).stderr();
    assert_eq!(said.matches(obstacle.said[1]).count(), 1, "{said}");
    assert_eq!(said.matches("delivering again").count(), 1, "{said}");
}

#[test]
fn a_disk_that_is_full_for_spool_and_lake_leaves_memory_to_bridge_it() {
    let home = tempfile::tempdir().unwrap();
    let disk = home.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=4m tmpfs {0}; head -c 4m /dev/zero >{0}/ballast",
        disk.display()
    );
    let launch = agent(home.path())
        .set("spool.path", disk.join("spool").display())
        .set("sink.lake.path", disk.join("lake").display())
        .set("spool.keep_free", "0%")
        // Longer than max_loss, so that there is something to commit.
        .set("send.interval", "3s");
    let mut agent = in_namespace(launch, &script).start();
    let news = ["the spool takes no samples", "nothing is delivered", "delivering again"];
    for words in &news[..2] {
        agent.wait_for(words, SOON, |agent| agent.stderr().contains(words));
    }
    let seen = seen_by(&agent, &disk);
    fs::remove_file(seen.join("ballast")).unwrap();
    for words in [news[2], "the spool takes samples again"] {
        agent.wait_for(words, SOON, |agent| agent.stderr().contains(words));
    }
    agent.wait_for("rows", SOON, |_| begun(&seen.join("lake")));
    assert_complete(&seen.join("lake"));
    let said = stop(agent).stderr();
    for words in news {
        assert_eq!(said.matches(words).count(), 1, "{said}");
    }
}

#[test]
fn a_lake_that_is_taken_away_is_begun_anew() {
    let home = tempfile::tempdir().unwrap();
    let lake = home.path().join("lake");
    let mut agent = agent(home.path()).start();
    for _ in 0..3 {
        agent.wait_for("rows", SOON, |_| begun(&lake));
        // It may write while this removes.
        let _ = fs::remove_dir_all(&lake);
    }
    agent.wait_for("rows", SOON, |_| begun(&lake));
    let said = stop(agent).stderr();
    let sql = "select count(*) as rows, count(distinct seq) as seqs from lake where marker is null";
    let rows = duckdb::query(&lake, sql);
    assert_eq!(rows[0]["rows"], rows[0]["seqs"]);
    assert!(!said.contains("panicked"), "{said}");
}

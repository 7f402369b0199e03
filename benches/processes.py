"""The processes of the footprint script, and what /proc says of them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGUN = time.monotonic()

# Not this machine's AWS set-up, proxies or agent settings.
CLEAN = {"PATH": os.environ["PATH"], "NO_COLOR": "1"}

# Where the usual distributions keep the authorities that an agent would load.
AUTHORITIES = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]


def say(text):
    print(f"[{time.monotonic() - BEGUN:5.0f} s] {text}", file=sys.stderr, flush=True)


def fields(path):
    """`Key: value` lines as a dict of first words."""
    lines = (line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return {key.strip(): value.split()[0] for key, value in lines if value.split()}


def until(what, seconds, condition, every=0.2):
    """Waits for a condition; its value, or None after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            say(f"gave up after {seconds} s: {what}")
            return None
        time.sleep(every)
    return value


class Process:
    """A child that is ended with its `with` block."""

    def __init__(self, command, env, log, stdout=subprocess.DEVNULL):
        self.log = log
        self.began = time.monotonic()
        with open(log, "wb") as stderr:
            self.child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """SIGTERM, and SIGKILL where that takes more than 20 s; returns the seconds it took."""
        asked = time.monotonic()
        if self.child.poll() is None:
            self.child.terminate()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        return time.monotonic() - asked

    def alive(self):
        if self.child.poll() is not None:
            sys.exit(f"a process ended by itself with {self.child.returncode}:\n"
                     f"{self.log.read_text(errors='replace')}")
        return self

    def cpu_ms(self):
        """By the process's own clock: threads that have ended are in it."""
        # The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e6

    def log_lines(self):
        return self.log.read_bytes().count(b"\n")


class StandIn(Process):
    """A Firehose over TLS; `program` is set once it is built."""

    program = None

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        env = CLEAN | {"TMPDIR": str(folder)}
        super().__init__([self.program, "--tls"], env, folder / "stand-in.log", subprocess.PIPE)
        self.told = json.loads(self.child.stdout.readline())
        # With the system's own authorities, for that is what an agent loads in earnest.
        self.ca_file = folder / "authorities.pem"
        pem = [Path(self.told["ca_file"]).read_text()]
        pem += [Path(path).read_text() for path in AUTHORITIES if Path(path).exists()][:1]
        self.ca_file.write_text("\n".join(pem))

    def stats(self):
        with urllib.request.urlopen(self.told["control_url"] + "/stats", timeout=30) as answer:
            return json.load(answer)


class Agent(Process):
    """An agent whose spool, lake and log are in `folder`; `program` is set once it is built."""

    program = None

    def __init__(self, folder, settings, stand_in=None, arguments=(), stdout=subprocess.DEVNULL):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "iot-agent.toml").touch()
        env = CLEAN | {"HOME": str(folder)}
        defaults = {"device.id": "footprint", "spool.path": folder / "spool",
                    "clock.wait": "0s", "sink.kind": "firehose",
                    "sink.firehose.stream": "iot-telemetry", "sink.firehose.region": "eu-west-1",
                    "sink.lake.path": folder / "lake"}
        if stand_in:
            env |= stand_in.told["environment"]
            defaults |= {"sink.firehose.endpoint_url": stand_in.told["url"],
                         "sink.firehose.ca_file": stand_in.ca_file}
        else:
            env |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
            defaults["sink.firehose.endpoint_url"] = f"https://127.0.0.1:{free_port()}"
        simulated = "--simulate" in arguments
        self.spool = folder / "simulated/spool" if simulated else folder / "spool"
        self.disk = None
        if "spool.path" in settings:
            self.spool = Path(settings["spool.path"])
        command = [self.program, "--config", folder / "iot-agent.toml", *arguments]
        for key, value in (defaults | settings).items():
            command += ["--set", f"{key}={value}"]
        # Beside the folder: on a disk of its own the log would count as the agent's.
        super().__init__(command, env, folder.with_suffix(".log"), stdout)

    def memory(self):
        """Resident, anonymous and peak resident memory in MiB."""
        rollup, status = fields(f"/proc/{self.pid}/smaps_rollup"), fields(f"/proc/{self.pid}/status")
        kib = int(rollup["Rss"]), int(rollup["Anonymous"]), int(status["VmHWM"])
        return dict(zip(["rss", "anonymous", "peak"], (value / 1024 for value in kib)))

    def counters(self):
        threads = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError, KeyError):
                status = fields(task / "status")
                threads[task.name] = status["Name"], int(status["voluntary_ctxt_switches"])
        dirtied = int(fields(f"/proc/{self.pid}/io")["write_bytes"])
        return {"at": time.monotonic(), "cpu_ms": self.cpu_ms(), "dirtied": dirtied,
                "written": self.disk() if self.disk else None,
                "lines": self.log_lines(), "threads": threads}

    def ledger_edition(self):
        """Changes with each commit; asking for it costs the agent nothing."""
        with contextlib.suppress(OSError):
            return (self.spool / "ledger").stat().st_mtime_ns

    def quiet(self, share=0.1, seconds=2.0):
        """A condition: it used less than `share` of a core for `seconds`. Its value is since when."""
        last = None

        def condition():
            nonlocal last
            now, used = time.monotonic(), self.alive().cpu_ms()
            if last is None or used - last[1] > share * seconds * 1000:
                last = now, used
            return last[0] if now - last[0] >= seconds else None

        return condition


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def own_disk(place):
    """Mounts an ext4 file system of its own at `place`: yields a function that says how many bytes
    have reached its device, or None where there can be none."""
    image = place.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate(256 << 20)
    commands = [["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image],
                ["mount", "-o", "loop", image, place]]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"no disk of its own: {error}")
        yield None
        return
    try:
        device = os.stat(place).st_dev
        stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        # Documentation/block/stat.rst: the seventh is sectors of 512 bytes written.
        yield lambda: int(stat.read_text().split()[6]) * 512
    finally:
        subprocess.run(["umount", "--lazy", place], timeout=60)


def busy_ms():
    """CPU that the whole machine used since its boot."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) * 1000 / os.sysconf("SC_CLK_TCK")


def watch(agents, seconds):
    """Figures of each agent over a window, by name."""
    begun, busy = time.monotonic(), busy_ms()
    before = {name: agent.alive().counters() for name, agent in agents.items()}
    editions = {name: {agent.ledger_edition()} for name, agent in agents.items()}
    while time.monotonic() - begun < seconds:
        time.sleep(0.25)
        for name, agent in agents.items():
            editions[name].add(agent.ledger_edition())
    figures = {}
    for name, agent in agents.items():
        x, y = before[name], agent.alive().counters()
        span = y["at"] - x["at"]
        wakes = {}
        for tid, (thread, count) in y["threads"].items():
            kind = thread.rstrip("0123456789")
            wakes[kind] = wakes.get(kind, 0) + (count - x["threads"].get(tid, ("", 0))[1]) / span
        figures[name] = agent.memory() | {
            "seconds": span, "cpu_ms_a_second": (y["cpu_ms"] - x["cpu_ms"]) / span,
            "wakes": sum(wakes.values()), "wakes_by_thread": wakes,
            "dirtied": y["dirtied"] - x["dirtied"],
            "written": y["written"] - x["written"] if agents[name].disk else None,
            "commits": len(editions[name]) - 1, "log_lines": y["lines"] - x["lines"]}
    ours = sum(f["cpu_ms_a_second"] * f["seconds"] for f in figures.values())
    others = (busy_ms() - busy - ours) / ((time.monotonic() - begun) * 10 * os.cpu_count())
    say(f"all else used {others:.0f} % of the machine's CPU in this window")
    return figures, others


def build(*arguments):
    """The path of the program that cargo built."""
    say(f"cargo build --release {' '.join(arguments)}")
    command = ["cargo", "build", "--release", "--locked",
               "--message-format=json-render-diagnostics", *arguments]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if built.returncode:
        sys.exit("nothing was measured: cargo could not build it")
    messages = map(json.loads, built.stdout.splitlines())
    programs = [m["executable"] for m in messages if m.get("executable")]
    return programs[-1]


def file_system(path):
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    above = [m for m in mounts if path.is_relative_to(m[4])]
    found = max(above, key=lambda m: len(m[4]))
    return found[found.index("-") + 1]

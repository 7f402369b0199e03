//! What a process did to the files below one folder, as strace(1) saw it.
//!
//! A write counts when its call has returned. A sync counts when its call has
//! returned, for what had returned before it was called.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::eventually;

const CALLS: &str = "trace=openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,\
    unlinkat,rmdir,link,linkat,symlink,symlinkat,write,pwrite64,writev,pwritev,pwritev2,lseek,\
    truncate,ftruncate,fallocate,fsync,fdatasync,sync_file_range";

/// What is put before a command to have its calls written to `log`. The
/// command keeps its process id.
pub fn wrapper(log: &Path) -> impl Iterator<Item = &str> {
    let log = log.to_str().expect("a path in UTF-8");
    // With -D the command is the child, and strace ends after it.
    let options = ["strace", "-D", "-f", "-y", "-xx", "-s", "4000000", "-qq", "--seccomp-bpf"];
    options.into_iter().chain(["-e", CALLS, "-e", "signal=none", "-o", log])
}

/// One change to the files. Paths are relative to the folder that was watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Create(PathBuf),
    MakeDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        data: Vec<u8>,
    },
    Resize {
        path: PathBuf,
        bytes: u64,
    },
    /// What was done to this file or folder before op number `since` is durable.
    Sync {
        path: PathBuf,
        since: usize,
    },
}

/// Reads one log after the other.
pub struct Trace {
    root: PathBuf,
    pub ops: Vec<Op>,
}

impl Trace {
    /// Of what happens below `root`.
    pub fn of(root: &Path) -> Self {
        Self { root: root.to_owned(), ops: Vec::new() }
    }

    /// Takes in the log of a process that has ended, once strace has, too.
    #[track_caller]
    pub fn read(&mut self, log: &Path) {
        let mut before = None;
        eventually("strace has written all", Duration::from_secs(20), || {
            let now = fs::metadata(log).map(|meta| meta.len()).ok();
            std::thread::sleep(Duration::from_millis(200));
            before.replace(now) == Some(now)
        });
        self.take_in(&fs::read_to_string(log).expect("strace's log"));
    }

    fn take_in(&mut self, log: &str) {
        let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
        let mut files = HashMap::new();
        for line in log.lines() {
            let (pid, text) = line.split_once(' ').expect("a process id");
            let text = text.trim_start();
            if let Some(call) = text.strip_suffix(" <unfinished ...>") {
                begun.insert(pid, (self.ops.len(), call));
            } else if let Some(resumed) = text.strip_prefix("<... ") {
                let (_, rest) = resumed.split_once(" resumed>").expect("a call that goes on");
                let (since, call) = begun.remove(pid).expect("a call that was begun");
                self.call(&format!("{call}{rest}"), since, &mut files);
            } else if !text.starts_with(['+', '-']) {
                self.call(text, self.ops.len(), &mut files);
            }
        }
    }

    /// `files` holds the place in each file that was opened, by descriptor.
    fn call(&mut self, text: &str, since: usize, files: &mut HashMap<u32, u64>) {
        // A call that a kill cut short has no result, and may have had no effect.
        let Some((call, result)) = text.rsplit_once(" = ") else { return };
        let (name, arguments) = call.split_once('(').unwrap_or_else(|| panic!("{text:.200}"));
        let arguments = arguments.trim_end().strip_suffix(')').expect("a call's end");
        // Without quotes and commas inside, for all text is hexadecimal.
        let arguments: Vec<&str> = arguments.split(", ").collect();
        let number = result.split(['<', ' ']).next().and_then(|word| word.parse::<i64>().ok());
        let Some(number) = number.filter(|number| *number >= 0) else { return };
        let path = |nth| self.path(&arguments, nth);
        match name {
            "open" | "openat" | "creat" => {
                let fd = u32::try_from(number).expect("a descriptor");
                files.insert(fd, 0);
                if let Some((_, opened)) = result.split_once('<')
                    && let Some(path) = self.below(&unhex(opened))
                {
                    self.opened(path, text);
                }
            }
            "mkdir" => self.push(path(0).map(Op::MakeDir)),
            "mkdirat" => self.push(path(1).map(Op::MakeDir)),
            "unlink" | "rmdir" => self.push(path(0).map(Op::Remove)),
            "unlinkat" => self.push(path(1).map(Op::Remove)),
            "rename" => self.push(path(0).zip(path(1)).map(|(from, to)| Op::Rename(from, to))),
            "renameat" | "renameat2" => {
                self.push(path(1).zip(path(3)).map(|(from, to)| Op::Rename(from, to)));
            }
            "ftruncate" => self.push(self.resize(&arguments)),
            "fsync" | "fdatasync" => {
                self.push(self.file(arguments[0]).map(|path| Op::Sync { path, since }));
            }
            "lseek" => {
                files.insert(descriptor(arguments[0]), u64::try_from(number).expect("a place"));
            }
            "pwrite64" => {
                let at = arguments[3].parse().expect("a place");
                self.push(self.write(&arguments, at, number));
            }
            "write" => {
                let place = files.entry(descriptor(arguments[0])).or_default();
                let at = *place;
                *place += u64::try_from(number).expect("a length");
                self.push(self.write(&arguments, at, number));
            }
            // Starts the writing and waits for it, but neither for the disk's
            // own cache nor for what finds the data again: it promises nothing.
            "sync_file_range" => {}
            _ => {
                let ours = (0..arguments.len())
                    .any(|nth| self.file(arguments[nth]).is_some() || path(nth).is_some());
                assert!(!ours, "nobody knows yet what this does: {text:.200}");
            }
        }
    }

    fn push(&mut self, op: Option<Op>) {
        self.ops.extend(op);
    }

    fn opened(&mut self, path: PathBuf, text: &str) {
        if text.contains("O_CREAT") {
            // Whether it was there before the disk knows.
            self.ops.push(Op::Create(path.clone()));
        }
        if text.contains("O_TRUNC") {
            self.ops.push(Op::Resize { path: path.clone(), bytes: 0 });
        }
        assert!(!text.contains("O_APPEND"), "where {} ends is not known", path.display());
    }

    fn write(&self, arguments: &[&str], at: u64, bytes: i64) -> Option<Op> {
        let path = self.file(arguments[0])?;
        let mut data = unhex(arguments[1].trim_matches('"'));
        assert!(!arguments[1].ends_with("..."), "strace cut a write short");
        data.truncate(usize::try_from(bytes).expect("a length"));
        Some(Op::Write { path, at, data })
    }

    fn resize(&self, arguments: &[&str]) -> Option<Op> {
        let bytes = arguments[1].parse().expect("a length");
        Some(Op::Resize { path: self.file(arguments[0])?, bytes })
    }

    /// The file behind a descriptor, as `9<\x2f…>`.
    fn file(&self, argument: &str) -> Option<PathBuf> {
        let (number, path) = argument.split_once('<')?;
        number.parse::<u32>().ok()?;
        // What has been removed already is out of reach of any power cut.
        if argument.ends_with("(deleted)") {
            return None;
        }
        self.below(&unhex(path))
    }

    /// The path that the `nth` argument names; the one before it may be the
    /// folder that it starts from.
    fn path(&self, arguments: &[&str], nth: usize) -> Option<PathBuf> {
        let named = unhex(arguments.get(nth)?.strip_prefix('"')?.trim_end_matches('"'));
        let folder = nth.checked_sub(1).and_then(|before| arguments.get(before));
        let folder = folder.and_then(|folder| folder.split_once('<'));
        let base = folder.map(|(_, path)| unhex(path)).unwrap_or_default();
        let [base, named] = [base, named].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        self.below(Path::new(&base).join(named).as_os_str().as_encoded_bytes())
    }

    fn below(&self, path: &[u8]) -> Option<PathBuf> {
        let path = Path::new(std::str::from_utf8(path).ok()?);
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }
}

fn descriptor(argument: &str) -> u32 {
    let number = argument.split('<').next().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no descriptor: {argument}"))
}

/// The bytes of `\x2f\x74…`, up to where something else follows.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes().chunks_exact(4).map_while(|escape| match escape {
        [b'\\', b'x', high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace prints it with `-xx`.
    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    #[test]
    fn calls_that_failed_or_lie_elsewhere_are_left_out_and_a_long_one_is_put_together() {
        let (a, b, elsewhere) = (hex("/top/a"), hex("/top/b"), hex("/other"));
        let (text, cwd) = (hex("hi"), hex("/"));
        let log = format!(
            "7 openat(AT_FDCWD<{cwd}>, \"{a}\", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 3<{a}>\n\
             7 mkdir(\"{a}\", 0777) = -1 EEXIST (File exists)\n\
             7 write(3<{a}>, \"{text}\", 2) = 2\n\
             7 fdatasync(3<{a}> <unfinished ...>\n\
             8 pwrite64(3<{a}>, \"{text}\", 2, 9) = 1\n\
             7 <... fdatasync resumed>) = 0\n\
             7 write(4<{elsewhere}>, \"{text}\", 2) = 2\n\
             7 write(3<{a}>, \"{text}\", 2) = 2\n\
             7 rename(\"{a}\", \"{b}\") = 0\n\
             7 fsync(3<{b}> <unfinished ...>\n\
             7 +++ killed by SIGKILL +++\n"
        );
        let mut trace = Trace::of(Path::new("/top"));
        trace.take_in(&log);
        let [a, b] = ["a", "b"].map(PathBuf::from);
        let write = |at, text: &str| Op::Write { path: a.clone(), at, data: text.into() };
        let expected = [
            Op::Create(a.clone()),
            write(0, "hi"),
            write(9, "h"),
            Op::Sync { path: a.clone(), since: 2 },
            write(2, "hi"),
            Op::Rename(a.clone(), b),
        ];
        assert_eq!(trace.ops, expected);
    }

    #[test]
    fn names_may_start_from_a_folder_that_is_open() {
        let (folder, name) = (hex("/top/folder"), hex("name"));
        let mut trace = Trace::of(Path::new("/top"));
        trace.take_in(&format!("7 unlinkat(5<{folder}>, \"{name}\", AT_REMOVEDIR) = 0\n"));
        assert_eq!(trace.ops, [Op::Remove("folder/name".into())]);
    }
}

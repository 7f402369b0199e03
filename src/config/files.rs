//! The files that are read, and what the machine says for itself.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::config::draft::Surroundings;
use crate::config::resolve::File;

/// The file that is read unless another is named.
pub const DEFAULT_FILE: &str = "/etc/iot-agent.toml";

const STATE: &str = "/var/lib/iot-agent";

/// The installed file, which names every key, is a tenth of it.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// `main`, then the `*.toml` files of the folder of its name with `.d`, in the
/// order of their names. Unless `asked` for, `main` may be missing.
pub fn read(main: &Path, asked: bool) -> Vec<File> {
    let mut files = vec![read_file(main)];
    if !asked && matches!(fs::metadata(main), Err(error) if error.kind() == ErrorKind::NotFound) {
        files.clear();
    }
    let folder = main.with_extension("d");
    match drop_ins(&folder) {
        Ok(paths) => files.extend(paths.iter().map(|path| read_file(path))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => {
            let content = Err(explain(&error, &folder));
            files.push(File { path: folder, content });
        }
    }
    files
}

fn drop_ins(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Editors leave hidden files behind.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path) -> File {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let content = match read() {
        Ok(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => Err((
            format!("is larger than {} KiB", MAX_FILE_BYTES / 1024),
            "Is this the right file?".into(),
        )),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(explain(&error, path)),
    };
    File { path: path.to_owned(), content }
}

/// What went wrong, in words that follow the path, and the remedy.
fn explain(error: &io::Error, path: &Path) -> (String, String) {
    let path = path.display();
    let (what, remedy) = match error.kind() {
        ErrorKind::NotFound => ("does not exist", "Create it, or name another by --config.".into()),
        ErrorKind::IsADirectory => {
            ("is a folder", "Name a file; the folder of its name with .d is read by itself.".into())
        }
        ErrorKind::PermissionDenied => (
            "may not be read by this user",
            format!("Run as its owner, or let others read it: chmod a+r {path}"),
        ),
        _ => return (format!("cannot be read: {error}"), "Check the disk and the path.".into()),
    };
    (what.into(), remedy)
}

/// What this process sees.
pub fn surroundings() -> Surroundings {
    let system = Path::new(STATE);
    let writable = rustix::process::geteuid().is_root()
        || rustix::fs::access(system, rustix::fs::Access::WRITE_OK).is_ok();
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    Surroundings {
        host_name: gethostname::gethostname().to_string_lossy().into_owned(),
        state: state_folder(writable, var("XDG_STATE_HOME"), var("HOME")),
    }
}

/// The system's folder for those who may write there, else the user's
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>, where a
/// relative path is to be ignored).
fn state_folder(writable: bool, state: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let absolute = |path: &PathBuf| path.is_absolute();
    let home = home.filter(absolute).map(|home| home.join(".local/state"));
    match state.filter(absolute).or(home) {
        Some(user) if !writable => user.join("iot-agent"),
        _ => STATE.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_follow_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("agent.toml");
        let folder = dir.path().join("agent.d");
        fs::write(&main, "a").unwrap();
        fs::create_dir(&folder).unwrap();
        for name in ["20-b.toml", "10-a.toml", "README", ".30-c.toml", "40-d.toml~"] {
            fs::write(folder.join(name), name).unwrap();
        }
        let read = read(&main, true);
        let paths: Vec<_> = read.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths, [main, folder.join("10-a.toml"), folder.join("20-b.toml")]);
        assert_eq!(read[1].content, Ok(b"10-a.toml".to_vec()));
    }

    #[test]
    fn a_missing_file_matters_only_if_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("agent.toml");
        assert!(read(&main, false).is_empty());
        let (what, _) = read(&main, true)[0].content.clone().unwrap_err();
        assert_eq!(what, "does not exist");
    }

    #[test]
    fn folders_endless_files_and_bad_links_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let why = |path: &Path| read(path, false)[0].content.clone().unwrap_err().0;
        assert_eq!(why(dir.path()), "is a folder");
        assert_eq!(why(Path::new("/dev/zero")), "is larger than 64 KiB");
        let link = dir.path().join("loop.toml");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(why(&link).starts_with("cannot be read"));
    }

    #[test]
    fn state_lies_with_the_system_or_with_the_user() {
        let some = |path: &str| Some(PathBuf::from(path));
        let folder = |writable, state, home| state_folder(writable, state, home);
        assert_eq!(folder(true, some("/x"), some("/home/u")), Path::new(STATE));
        assert_eq!(folder(false, some("/x"), some("/home/u")), Path::new("/x/iot-agent"));
        let user = Path::new("/home/u/.local/state/iot-agent");
        assert_eq!(folder(false, some("x"), some("/home/u")), user);
        assert_eq!(folder(false, None, None), Path::new(STATE));
    }
}

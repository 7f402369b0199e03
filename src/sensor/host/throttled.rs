//! What the Raspberry Pi's firmware says of voltage and throttling.
//!
//! Only the kernel of Raspberry Pi OS shows the flags. Mainline kernels show
//! under-voltage alone (hwmon `rpi_volt`); a number made of that one bit would
//! read as "not throttled" where nobody knows, so there it is absent.

use std::fs;
use std::path::{Path, PathBuf};

use super::Fault;

const FILE: &str = "get_throttled";

/// The same on all models but those whose device tree calls the SoC otherwise.
const DEVICE: &str = "devices/platform/soc/soc:firmware";

/// Holds a link to the device, whatever it is called.
const DRIVER: &str = "bus/platform/drivers/raspberrypi-firmware";

/// The file of the flags below `sys`, if this is a Raspberry Pi that has it.
pub(super) fn find(sys: &Path) -> Option<PathBuf> {
    let named = sys.join(DEVICE).join(FILE);
    let linked = fs::read_dir(sys.join(DRIVER)).into_iter().flatten().flatten();
    std::iter::once(named).chain(linked.map(|e| e.path().join(FILE))).find(|path| path.is_file())
}

/// The flags, as in `vcgencmd get_throttled`.
pub(super) fn read(path: &Path) -> Result<u64, Fault> {
    let text = fs::read(path).map_err(|source| Fault::unreadable(path, source))?;
    parse(&text).ok_or_else(|| Fault::garbage(path, &text))
}

/// The kernel writes hexadecimal without a prefix.
fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_hexadecimal() {
        assert_eq!(parse(b"50005\n"), Some(0x50005));
        assert_eq!(parse(b"0x8"), Some(8));
        assert_eq!(parse(b"throttled"), None);
    }

    #[test]
    fn the_file_is_found_under_either_name() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(find(sys.path()), None);
        for folder in [&format!("{DRIVER}/soc@107c000000:firmware"), DEVICE] {
            fs::create_dir_all(sys.path().join(folder)).unwrap();
            let file = sys.path().join(folder).join(FILE);
            fs::write(&file, "5\n").unwrap();
            assert_eq!(find(sys.path()), Some(file.clone()));
            assert_eq!(read(&file).unwrap(), 5);
        }
    }
}

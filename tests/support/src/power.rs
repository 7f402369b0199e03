//! Disks as power cuts leave them.
//!
//! What was synced before the cut is there. Of everything after, each sector
//! of a file is as it was at some moment since, for a page that goes to the
//! disk takes along whatever was written to it before; so is the file's size,
//! and what lies between is zeroes. The names in a folder are those of some
//! moment since, either of one moment in all folders, as a journal keeps them,
//! or of a moment of its own in each, as without one.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Component, Path};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::trace::Op;

/// A file or folder, whatever its name is.
type Node = usize;

/// The folder that was watched, empty at first.
const ROOT: Node = 0;

#[derive(Debug)]
enum Event {
    Enter { folder: Node, name: String, node: Node },
    Leave { folder: Node, name: String },
    Write { node: Node, at: u64, data: Vec<u8> },
    Resize { node: Node, bytes: u64 },
    Sync { node: Node, since: usize },
}

/// A disk's history.
pub struct Disk {
    /// With the number of the op that each comes from, in order.
    events: Vec<(usize, Event)>,
    is_folder: Vec<bool>,
}

impl Disk {
    pub fn new(ops: &[Op]) -> Self {
        let mut names = Names { folders: vec![BTreeMap::new()], is_folder: vec![true] };
        let events = ops.iter().enumerate();
        let events = events.flat_map(|(at, op)| names.follow(op).into_iter().map(move |e| (at, e)));
        let events = events.collect();
        Self { events, is_folder: names.is_folder }
    }

    /// Makes `folder` what a power cut after the first `cut` ops may leave.
    pub fn cut(&self, cut: usize, random: &mut StdRng, folder: &Path) {
        let mut certain = vec![0; self.is_folder.len()];
        for (_, event) in self.until(cut) {
            if let Event::Sync { node, since } = event {
                certain[*node] = *since;
            }
        }
        let journal = random.random_bool(0.5).then(|| {
            let folders = certain.iter().zip(&self.is_folder).filter(|(_, folder)| **folder);
            let least = folders.map(|(certain, _)| *certain).max().unwrap_or(0);
            random.random_range(least..=cut)
        });
        let named: Vec<usize> = certain
            .iter()
            .map(|&c| journal.unwrap_or_else(|| random.random_range(c..=cut)))
            .collect();
        let mut folders: Vec<BTreeMap<&str, Node>> = vec![BTreeMap::new(); certain.len()];
        for (at, event) in self.until(cut) {
            match event {
                Event::Enter { folder, name, node } if *at < named[*folder] => {
                    folders[*folder].insert(name, *node);
                }
                Event::Leave { folder, name } if *at < named[*folder] => {
                    folders[*folder].remove(name.as_str());
                }
                _ => {}
            }
        }
        self.put(ROOT, folder, &folders, &mut |node| {
            self.content(node, certain[node], cut, random)
        });
    }

    fn put(
        &self,
        node: Node,
        path: &Path,
        folders: &[BTreeMap<&str, Node>],
        content: &mut dyn FnMut(Node) -> Vec<u8>,
    ) {
        if !self.is_folder[node] {
            return fs::write(path, content(node)).expect("a file");
        }
        fs::create_dir_all(path).expect("a folder");
        for (name, below) in &folders[node] {
            self.put(*below, &path.join(name), folders, content);
        }
    }

    /// A file's bytes of some moments between op `certain` and `cut`.
    fn content(&self, file: Node, certain: usize, cut: usize, random: &mut StdRng) -> Vec<u8> {
        let sector_bytes: u64 = if random.random_bool(0.5) { 512 } else { 4096 };
        let mut moment: Box<dyn FnMut() -> usize> = match random.random_range(0..4) {
            0 => Box::new(|| certain),
            1 => Box::new(|| cut),
            _ => Box::new(|| match random.random_range(0..4) {
                0 => certain,
                1 => cut,
                _ => random.random_range(certain..=cut),
            }),
        };
        let of_size = moment();
        let (mut size, mut bytes): (u64, Vec<u8>) = (0, Vec::new());
        let mut of_sector = HashMap::new();
        for (at, event) in self.until(cut) {
            match event {
                Event::Resize { node, bytes: length } if *node == file => {
                    if *at < of_size {
                        size = *length;
                    }
                    if *at < certain {
                        bytes.truncate(to_usize(*length));
                    }
                }
                Event::Write { node, at: place, data } if *node == file => {
                    let end = place + data.len() as u64;
                    if *at < of_size {
                        size = size.max(end);
                    }
                    bytes.resize(bytes.len().max(to_usize(end)), 0);
                    let mut from = *place;
                    while from < end {
                        let sector = from / sector_bytes;
                        let to = end.min((sector + 1) * sector_bytes);
                        if *at < certain
                            || *at < *of_sector.entry(sector).or_insert_with(&mut moment)
                        {
                            let part = &data[to_usize(from - place)..to_usize(to - place)];
                            bytes[to_usize(from)..to_usize(to)].copy_from_slice(part);
                        }
                        from = to;
                    }
                }
                _ => {}
            }
        }
        bytes.resize(to_usize(size), 0);
        bytes
    }

    fn until(&self, cut: usize) -> impl Iterator<Item = &(usize, Event)> {
        self.events.iter().take_while(move |(at, _)| *at < cut)
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("files are small")
}

/// The names as the process saw them.
struct Names {
    folders: Vec<BTreeMap<String, Node>>,
    is_folder: Vec<bool>,
}

impl Names {
    fn follow(&mut self, op: &Op) -> Vec<Event> {
        match op {
            Op::Create(path) if self.find(path).is_some() => Vec::new(),
            Op::Create(path) => vec![self.make(path, false)],
            Op::MakeDir(path) => vec![self.make(path, true)],
            Op::Remove(path) => vec![self.leave(path).1],
            Op::Rename(from, to) => {
                let (node, leave) = self.leave(from);
                vec![leave, self.enter(to, node)]
            }
            Op::Write { path, at, data } => {
                vec![Event::Write { node: self.at(path), at: *at, data: data.clone() }]
            }
            Op::Resize { path, bytes } => {
                vec![Event::Resize { node: self.at(path), bytes: *bytes }]
            }
            Op::Sync { path, since } => vec![Event::Sync { node: self.at(path), since: *since }],
        }
    }

    fn make(&mut self, path: &Path, is_folder: bool) -> Event {
        self.folders.push(BTreeMap::new());
        self.is_folder.push(is_folder);
        self.enter(path, self.is_folder.len() - 1)
    }

    fn enter(&mut self, path: &Path, node: Node) -> Event {
        let (folder, name) = self.place(path);
        self.folders[folder].insert(name.clone(), node);
        Event::Enter { folder, name, node }
    }

    fn leave(&mut self, path: &Path) -> (Node, Event) {
        let (folder, name) = self.place(path);
        let node = self.folders[folder].remove(&name);
        let node = node.unwrap_or_else(|| panic!("{} was not there", path.display()));
        (node, Event::Leave { folder, name })
    }

    fn place(&self, path: &Path) -> (Node, String) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        (self.at(path.parent().expect("below the top")), name.into())
    }

    fn at(&self, path: &Path) -> Node {
        self.find(path).unwrap_or_else(|| panic!("{} was not there", path.display()))
    }

    fn find(&self, path: &Path) -> Option<Node> {
        path.components().try_fold(ROOT, |folder, part| match part {
            Component::Normal(name) => self.folders[folder].get(name.to_str()?).copied(),
            _ => Some(folder),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn write(path: &str, at: u64, data: &[u8]) -> Op {
        Op::Write { path: path.into(), at, data: data.into() }
    }

    fn sync(path: &str, since: usize) -> Op {
        Op::Sync { path: path.into(), since }
    }

    /// What file `name` is after many power cuts at one moment.
    fn seen(ops: &[Op], cut: usize, name: &str) -> BTreeSet<Option<Vec<u8>>> {
        let disk = Disk::new(ops);
        let one = |seed| {
            let folder = tempfile::tempdir().unwrap();
            disk.cut(cut, &mut StdRng::seed_from_u64(seed), folder.path());
            fs::read(folder.path().join(name)).ok()
        };
        (0..400).map(one).collect()
    }

    #[test]
    fn what_was_synced_is_certain_and_the_rest_may_land_in_parts() {
        let ops = [
            Op::Create("a".into()),
            sync("", 1),
            write("a", 0, &[1; 1024]),
            sync("a", 3),
            write("a", 0, &[2; 1024]),
        ];
        let of = |first: u8, second: u8| Some([vec![first; 512], vec![second; 512]].concat());
        assert_eq!(seen(&ops, 4, "a"), BTreeSet::from([of(1, 1)]));
        let torn = BTreeSet::from([of(1, 1), of(2, 1), of(1, 2), of(2, 2)]);
        assert_eq!(seen(&ops, 5, "a"), torn);
        let unsynced = seen(&ops, 3, "a");
        let sizes: BTreeSet<usize> = unsynced.iter().flatten().map(Vec::len).collect();
        assert_eq!(sizes, BTreeSet::from([0, 1024]));
        assert!(unsynced.contains(&of(0, 1)) && !unsynced.contains(&None));
    }

    #[test]
    fn a_name_is_certain_once_its_folder_is_synced() {
        let ops = [
            Op::Create("a".into()),
            write("a", 0, b"x"),
            sync("a", 2),
            Op::Rename("a".into(), "b".into()),
            sync("", 4),
            Op::Remove("b".into()),
        ];
        let x = || Some(b"x".to_vec());
        assert_eq!(seen(&ops, 3, "a"), BTreeSet::from([None, x()]));
        assert_eq!(seen(&ops, 4, "b"), BTreeSet::from([None, x()]));
        assert_eq!(seen(&ops, 5, "b"), BTreeSet::from([x()]));
        assert_eq!(seen(&ops, 5, "a"), BTreeSet::from([None]));
        assert_eq!(seen(&ops, 6, "b"), BTreeSet::from([None, x()]));
    }

    #[test]
    fn a_file_keeps_what_it_is_under_another_name() {
        let ops = [
            Op::MakeDir("making".into()),
            Op::Create("making/db".into()),
            write("making/db", 0, b"x"),
            sync("making/db", 3),
            sync("making", 4),
            Op::Rename("making".into(), "gen".into()),
            write("gen/db", 1, b"y"),
            sync("gen/db", 7),
            sync("", 8),
        ];
        assert_eq!(seen(&ops, 9, "gen/db"), BTreeSet::from([Some(b"xy".to_vec())]));
    }
}

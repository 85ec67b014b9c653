//! Words of a mount's `options`: flags of the mount, propagation, recursive flags, what only runtimes understand, and all that remains for
//! the filesystem. One row an option; `features` lists the same rows.

use keles_linux::mount::{Attributes, Propagation};

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub bind: bool,
    /// A bind of everything below the source too.
    pub recursive: bool,
    pub set: Change,
    pub set_below: Change,
    /// Set in this order, each with or without what is below.
    pub propagation: Vec<(Propagation, bool)>,
    pub copy_up: bool,
    /// Files show mapped ids; `true` in it: below the source too.
    pub map_ids: Option<bool>,
    pub remount: bool,
    /// For the filesystem itself.
    pub data: Vec<String>,
}

/// Flags to set and to clear; the last word on a flag counts.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub set: Attributes,
    pub clear: Attributes,
}

impl Default for Change {
    fn default() -> Self {
        Change { set: Attributes::empty(), clear: Attributes::empty() }
    }
}

impl Change {
    pub fn is_empty(self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }
    fn add(&mut self, flag: Attributes, on: bool) {
        let (to, from) = if on { (&mut self.set, &mut self.clear) } else { (&mut self.clear, &mut self.set) };
        if ACCESS_TIMES.contains(flag) {
            // One choice of three: relatime has no bit.
            *to -= ACCESS_TIMES;
            *from -= ACCESS_TIMES;
        }
        *from -= flag;
        *to |= flag;
    }
}

const ACCESS_TIMES: Attributes = Attributes::MOUNT_ATTR_NOATIME.union(Attributes::MOUNT_ATTR_STRICTATIME);

#[derive(Clone, Copy)]
enum Word {
    Set(Attributes),
    Clear(Attributes),
    /// relatime: the choice that has no bit.
    Relative,
    Propagate(Propagation, bool),
    Bind(bool),
    CopyUp,
    MapIds(bool),
    Remount,
    /// Taken by the filesystem as a flag.
    Filesystem,
    /// The default, or what mounts have no flag for.
    Nothing,
}

use Word::{Bind, Clear, CopyUp, Filesystem, MapIds, Nothing, Propagate, Relative, Remount, Set};

#[rustfmt::skip]
const WORDS: &[(&str, Word)] = &[
    ("acl", Filesystem), ("async", Filesystem), ("atime", Clear(Attributes::MOUNT_ATTR_NOATIME)), ("bind", Bind(false)), ("defaults", Nothing),
    ("dev", Clear(Attributes::MOUNT_ATTR_NODEV)), ("diratime", Clear(Attributes::MOUNT_ATTR_NODIRATIME)), ("dirsync", Filesystem), ("exec", Clear(Attributes::MOUNT_ATTR_NOEXEC)),
    ("idmap", MapIds(false)), ("iversion", Filesystem), ("lazytime", Filesystem), ("loud", Nothing), ("mand", Filesystem), ("noacl", Filesystem),
    ("noatime", Set(Attributes::MOUNT_ATTR_NOATIME)), ("nodev", Set(Attributes::MOUNT_ATTR_NODEV)), ("nodiratime", Set(Attributes::MOUNT_ATTR_NODIRATIME)),
    ("noexec", Set(Attributes::MOUNT_ATTR_NOEXEC)), ("noiversion", Nothing), ("nolazytime", Filesystem), ("nomand", Nothing), ("norelatime", Clear(Attributes::MOUNT_ATTR_NOATIME)),
    ("nostrictatime", Clear(Attributes::MOUNT_ATTR_STRICTATIME)), ("nosuid", Set(Attributes::MOUNT_ATTR_NOSUID)), ("nosymfollow", Set(Attributes::MOUNT_ATTR_NOSYMFOLLOW)),
    ("private", Propagate(Propagation::Private, false)), ("rbind", Bind(true)), ("relatime", Relative), ("remount", Remount), ("ridmap", MapIds(true)),
    ("ro", Set(Attributes::MOUNT_ATTR_RDONLY)), ("rprivate", Propagate(Propagation::Private, true)), ("rshared", Propagate(Propagation::Shared, true)),
    ("rslave", Propagate(Propagation::Slave, true)), ("runbindable", Propagate(Propagation::Unbindable, true)), ("rw", Clear(Attributes::MOUNT_ATTR_RDONLY)),
    ("shared", Propagate(Propagation::Shared, false)), ("silent", Nothing), ("slave", Propagate(Propagation::Slave, false)),
    ("strictatime", Set(Attributes::MOUNT_ATTR_STRICTATIME)), ("suid", Clear(Attributes::MOUNT_ATTR_NOSUID)), ("symfollow", Clear(Attributes::MOUNT_ATTR_NOSYMFOLLOW)),
    ("sync", Filesystem), ("tmpcopyup", CopyUp), ("unbindable", Propagate(Propagation::Unbindable, false)),
];

/// Of everything mounted below too: `rro` is `ro` with an r before it.
#[rustfmt::skip]
const BELOW: &[&str] = &["atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "relatime",
    "ro", "rw", "strictatime", "suid", "symfollow"];

/// Every option that we know, for `features`.
pub fn names() -> Vec<String> {
    let mut all: Vec<String> = WORDS.iter().map(|(n, _)| (*n).to_owned()).chain(BELOW.iter().map(|n| format!("r{n}"))).collect();
    all.sort();
    all
}

fn word(name: &str) -> Option<Word> {
    WORDS.iter().find(|(n, _)| *n == name).map(|(_, w)| *w)
}

fn attribute(to: &mut Change, word: Word) -> bool {
    match word {
        Set(flag) => to.add(flag, true),
        Clear(flag) => to.add(flag, false),
        Relative => to.add(ACCESS_TIMES, false),
        _ => return false,
    }
    true
}

pub fn parse(kind: &str, options: &[String]) -> Options {
    let mut o = Options { bind: kind == "bind", recursive: false, ..Options::default() };
    for option in options {
        if let Some(below) = option.strip_prefix('r').filter(|b| BELOW.contains(b) && word(option).is_none()) {
            attribute(&mut o.set_below, word(below).expect("listed in both"));
            continue;
        }
        let Some(w) = word(option) else {
            o.data.push(option.clone());
            continue;
        };
        if attribute(&mut o.set, w) {
            continue;
        }
        match w {
            Propagate(kind, below) => o.propagation.push((kind, below)),
            Bind(below) => (o.bind, o.recursive) = (true, o.recursive || below),
            CopyUp => o.copy_up = true,
            MapIds(below) => o.map_ids = Some(below),
            Remount => o.remount = true,
            Filesystem => o.data.push(option.clone()),
            _ => {}
        }
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Options {
        parse("none", &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_word_on_a_flag_counts_and_access_times_are_one_choice() {
        let o = of(&["ro", "nosuid", "rw", "noatime", "strictatime"]);
        assert_eq!(o.set.set, Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_STRICTATIME);
        assert_eq!(o.set.clear, Attributes::MOUNT_ATTR_RDONLY);
        let o = of(&["noatime", "relatime"]);
        assert_eq!((o.set.set, o.set.clear), (Attributes::empty(), ACCESS_TIMES));
    }

    #[test]
    fn recursive_words_are_kept_apart_from_binds_and_propagation() {
        let o = of(&["rbind", "rro", "rslave", "rnosuid", "size=5k", "tmpcopyup", "ridmap"]);
        assert!(o.bind && o.recursive && o.copy_up && o.set.is_empty());
        assert_eq!(o.set_below.set, Attributes::MOUNT_ATTR_RDONLY | Attributes::MOUNT_ATTR_NOSUID);
        assert_eq!((o.propagation.as_slice(), o.map_ids, o.data.as_slice()), (&[(Propagation::Slave, true)][..], Some(true), &["size=5k".to_owned()][..]));
        assert_eq!(of(&["rw"]).set.clear, Attributes::MOUNT_ATTR_RDONLY, "rw is no recursive w");
    }
}

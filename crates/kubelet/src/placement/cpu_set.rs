//! A set of processors, in the kernel's list form: `0-3,8` (cpuset(7)).

use std::collections::BTreeSet;
use std::fmt;

/// A list that names more is none.
const MAX_CPUS: usize = 8192;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<usize>);

impl CpuSet {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut set = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < MAX_CPUS).ok_or_else(|| format!("{text:?} in {:?} is no processor", part));
            match part.split_once('-') {
                None => drop(set.insert(number(part)?)),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("{part:?} is an empty range"));
                    }
                    set.extend(first..=last);
                }
            }
        }
        Ok(Self(set))
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<usize> = self.iter().collect();
        for (at, run) in all.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match run {
                [only] => write!(f, "{comma}{only}")?,
                _ => write!(f, "{comma}{}-{}", run[0], run[run.len() - 1])?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, shown) in [("0-3,8", "0-3,8"), ("", ""), ("3,1,2", "1-3"), ("0,2\n", "0,2"), ("5", "5")] {
            assert_eq!(CpuSet::parse(text).expect("a list").to_string(), shown, "{text:?}");
        }
        for text in ["x", "3-1", "1-", "-1", "99999"] {
            CpuSet::parse(text).expect_err(text);
        }
    }
}

//! A container's `/etc/resolv.conf`: read, joined, written. Source: resolv.conf(5).

/// glibc's and the API's limits.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    pub fn parse(file: &str) -> Self {
        let mut resolver = Self::default();
        for line in file.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(Into::into)),
                Some("search") => resolver.searches = words.map(|word| word.trim_end_matches('.').to_string()).filter(|word| !word.is_empty()).collect(),
                Some("options") => resolver.options = words.map(Into::into).collect(),
                _ => {}
            }
        }
        resolver
    }

    /// What is named twice stands once, and what goes beyond the limits is left out.
    pub fn limited(mut self) -> Self {
        dedup(&mut self.servers);
        dedup(&mut self.searches);
        self.servers.truncate(MAX_NAMESERVERS);
        self.searches.truncate(MAX_SEARCHES);
        self
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_without_what_is_double_and_beyond_the_limits() {
        let file = "# c\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\nsearch a. b a\noptions ndots:5\n";
        assert_eq!(Resolver::parse(file).limited().text(), "search a b\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions ndots:5\n");
    }
}

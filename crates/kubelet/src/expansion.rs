//! `$(VAR)` in env values, commands and arguments; `$$` is a dollar sign; an unknown reference stays as it is.

pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn references_are_replaced_and_dollars_escaped() {
        let lookup = |name: &str| (name == "A").then(|| "v".to_string());
        for (text, expected) in [("b-$(A)-$(NONE)-$$(A)", "b-v-$(NONE)-$(A)"), ("$", "$"), ("$(A", "$(A"), ("$$$(A)", "$v"), ("x$y", "x$y"), ("$()", "$()")] {
            assert_eq!(expand(text, &lookup), expected, "{text}");
        }
    }
}

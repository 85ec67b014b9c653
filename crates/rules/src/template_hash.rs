//! The hash in names made from pod templates: FNV-1a, 32 bits, in an alphabet without vowels.
//!
//! The value must be stable across processes and releases (lesson 129); a language's default hasher is not. Upstream hashes a Go-syntax dump of
//! the template, which only Go can make; nothing compares hashes across implementations, so ours is over the template's JSON.

use k8s_openapi::api::core::v1::PodTemplateSpec;

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;
/// No vowels and no 0, 1, 3: no words and no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The `pod-template-hash` of a template; `collisions` makes another one when the name was taken.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = fnv1a(FNV_OFFSET, &serde_json::to_vec(template).expect("API types always encode"));
    if let Some(collisions) = collisions {
        hash = fnv1a(hash, &collisions.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

/// Maps each character into the safe alphabet.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

fn fnv1a(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_hash_is_stable_fnv_in_the_safe_alphabet() {
        assert_eq!(fnv1a(FNV_OFFSET, b"foobar"), 0xbf9c_f968, "the published test vector of FNV-1a");
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
        let empty = template_hash(&PodTemplateSpec::default(), None);
        assert_eq!(empty, template_hash(&PodTemplateSpec::default(), None));
        assert_ne!(empty, template_hash(&PodTemplateSpec::default(), Some(1)), "a collision gives another name");
        assert!(empty.bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}

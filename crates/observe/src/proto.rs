//! Writing protobuf messages by field number: what traces and profiles are made of. Their formats are a dozen messages that do not change,
//! so no generated code.

/// A message under construction.
#[derive(Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn key(&mut self, field: u32, wire: u8) {
        self.raw(u64::from(field) << 3 | u64::from(wire));
    }
    fn raw(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }
    pub fn varint(&mut self, field: u32, n: u64) -> &mut Self {
        self.key(field, 0);
        self.raw(n);
        self
    }
    pub fn fixed64(&mut self, field: u32, n: u64) -> &mut Self {
        self.key(field, 1);
        self.0.extend(n.to_le_bytes());
        self
    }
    pub fn fixed32(&mut self, field: u32, n: u32) -> &mut Self {
        self.key(field, 5);
        self.0.extend(n.to_le_bytes());
        self
    }
    pub fn bytes(&mut self, field: u32, b: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.raw(b.len() as u64);
        self.0.extend_from_slice(b);
        self
    }
    pub fn text(&mut self, field: u32, s: &str) -> &mut Self {
        self.bytes(field, s.as_bytes())
    }
    pub fn message(&mut self, field: u32, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0)
    }
    pub fn packed(&mut self, field: u32, all: impl IntoIterator<Item = u64>) -> &mut Self {
        let mut inner = Message::default();
        all.into_iter().for_each(|n| inner.raw(n));
        self.bytes(field, &inner.0)
    }
}

#[cfg(test)]
pub mod tests {
    /// The fields of a message: number and content (varints and fixed ones as little-endian bytes). What a reader of the format sees.
    pub fn fields(mut b: &[u8]) -> Vec<(u32, Vec<u8>)> {
        fn varint(b: &mut &[u8]) -> u64 {
            let mut n = 0;
            for i in 0.. {
                let c = b[0];
                *b = &b[1..];
                n |= u64::from(c & 0x7f) << (7 * i);
                if c < 0x80 {
                    break;
                }
            }
            n
        }
        let mut all = Vec::new();
        while !b.is_empty() {
            let key = varint(&mut b);
            let take = match key & 7 {
                0 => {
                    all.push(((key >> 3) as u32, varint(&mut b).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => varint(&mut b) as usize,
            };
            all.push(((key >> 3) as u32, b[..take].to_vec()));
            b = &b[take..];
        }
        all
    }
    pub fn at(b: &[u8], path: &[u32]) -> Option<Vec<u8>> {
        path.iter().try_fold(b.to_vec(), |b, n| fields(&b).into_iter().find(|(f, _)| f == n).map(|(_, v)| v))
    }

    #[test]
    fn fields_are_written_as_protobuf_reads_them() {
        let mut m = super::Message::default();
        m.varint(1, 300).text(2, "hi").fixed32(3, 7).message(4, |m| {
            m.packed(1, [1, 2, 128]);
        });
        assert_eq!(m.0, [8, 0xac, 2, 0x12, 2, b'h', b'i', 0x1d, 7, 0, 0, 0, 0x22, 6, 0x0a, 4, 1, 2, 0x80, 1]);
        assert_eq!(at(&m.0, &[4, 1]), Some(vec![1, 2, 0x80, 1]));
    }
}

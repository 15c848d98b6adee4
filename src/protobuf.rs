//! Messages of protocol buffers, encoded by hand. Source: protobuf.dev, "Encoding".

/// A message in the making: each method appends one field.
#[derive(Debug, Default, Clone)]
pub struct ProtoMessage(Vec<u8>);

impl ProtoMessage {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    pub fn int(mut self, field: u32, value: u64) -> ProtoMessage {
        self.key(field, 0);
        self.varint(value);
        self
    }

    pub fn double(mut self, field: u32, value: f64) -> ProtoMessage {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn float(mut self, field: u32, value: f32) -> ProtoMessage {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(self, field: u32, value: &[u8]) -> ProtoMessage {
        let mut start = self.start(field, value.len());
        start.0.extend(value);
        start
    }

    /// What stands in front of `length` bytes that follow elsewhere.
    pub fn start(mut self, field: u32, length: usize) -> ProtoMessage {
        self.key(field, 2);
        self.varint(length as u64);
        self
    }

    pub fn text(self, field: u32, value: &str) -> ProtoMessage {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u32, value: ProtoMessage) -> ProtoMessage {
        self.bytes(field, &value.0)
    }

    pub fn doubles(self, field: u32, values: &[f64]) -> ProtoMessage {
        let packed: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(field, &packed)
    }

    /// These bytes behind those so far.
    pub fn then(mut self, more: &ProtoMessage) -> ProtoMessage {
        self.0.extend(&more.0);
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

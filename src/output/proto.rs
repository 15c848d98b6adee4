//! The few protocol-buffer messages that TensorBoard reads, encoded by hand, in TFRecord framing.
//!
//! Field numbers: tensorflow `event.proto`, `summary.proto`, `tensor.proto`; TensorBoard
//! `plugins/hparams/{api,plugin_data}.proto`.

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

    pub fn bytes(mut self, field: u32, value: &[u8]) -> ProtoMessage {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
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

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// TFRecord: length, its checksum, the bytes, their checksum; all little-endian.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(payload.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked(payload).to_le_bytes());
    out
}

/// CRC-32C, rotated and offset so that a checksum of a checksum is not one.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

//! One target of cargo-fuzz: the reader that has the name of this program.

#![no_main]

#[path = "../tests/common/files.rs"]
mod files;
#[path = "../tests/hardening/readers.rs"]
#[allow(dead_code)]
mod readers;
#[path = "../tests/import/support.rs"]
#[allow(dead_code)]
mod support;

use libfuzzer_sys::fuzz_target;
use std::cell::OnceCell;

thread_local! {
    static READER: OnceCell<readers::Reader> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    READER.with(|reader| {
        let reader = reader.get_or_init(|| {
            let name = env!("CARGO_BIN_NAME");
            let (_, of) = readers::ALL.iter().find(|(known, _)| *known == name).expect("a reader of this name");
            of()
        });
        (reader.read)(bytes);
    });
});

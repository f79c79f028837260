//! A core module whose memory cannot grow past a limit.
//!
//! The browser has no limiter to ask: the module itself is made to declare its
//! largest memory, which the browser then holds it to.

use wasmparser::{BinaryReader, MemorySectionReader};

/// A page of linear memory, in bytes.
const PAGE_BYTES: u64 = 65_536;

/// Bytes before the first section: the magic number and the version.
const HEADER: usize = 8;

/// The id of the section of memories.
const MEMORIES: u8 = 5;

/// The module with every memory that it defines held to so many bytes.
///
/// # Errors
/// What is wrong with the module, or that it wants more from the start.
pub fn limit_memory(module: &[u8], limit_bytes: u64) -> Result<Vec<u8>, String> {
    let cut = || "a section ends outside the module".to_owned();
    let mut limited = module.get(..HEADER).ok_or_else(cut)?.to_vec();
    let mut rest = &module[HEADER..];
    while let Some((&id, after)) = rest.split_first() {
        let mut reader = BinaryReader::new(after, 0);
        let len = reader.read_var_u32().map_err(|e| e.to_string())? as usize;
        let body_at = after.len() - reader.bytes_remaining();
        let body = after.get(body_at..body_at + len).ok_or_else(cut)?;
        limited.push(id);
        if id == MEMORIES {
            let body = memories(body, limit_bytes)?;
            limited.extend(leb(body.len() as u64));
            limited.extend(body);
        } else {
            limited.extend(leb(len as u64));
            limited.extend_from_slice(body);
        }
        rest = &after[body_at + len..];
    }
    Ok(limited)
}

fn memories(section: &[u8], limit_bytes: u64) -> Result<Vec<u8>, String> {
    let limit = limit_bytes / PAGE_BYTES;
    let reader = BinaryReader::new(section, 0);
    let memories = MemorySectionReader::new(reader).map_err(|e| e.to_string())?;
    let mut body = leb(memories.count().into());
    for memory in memories {
        let memory = memory.map_err(|e| e.to_string())?;
        if memory.memory64 || memory.shared || memory.page_size_log2.is_some() {
            return Err("it has a memory of a kind that this runtime leaves out".to_owned());
        }
        if memory.initial > limit {
            let wanted = memory.initial.saturating_mul(PAGE_BYTES);
            return Err(format!("memory limit: {wanted} bytes wanted, {limit_bytes} allowed"));
        }
        // 1: with a maximum.
        body.push(1);
        body.extend(leb(memory.initial));
        body.extend(leb(memory.maximum.map_or(limit, |maximum| maximum.min(limit))));
    }
    Ok(body)
}

/// Unsigned LEB128.
fn leb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

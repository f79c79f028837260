//! The canonical ABI: how values of the contract's types stand in a component's
//! memory, and in the parameters of its functions.
//!
//! What comes out of a component is not trusted: every read is within its memory,
//! every case and string is checked, and one call carries a bounded number of
//! bytes.
//!
//! # Source
//! <https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md>.

use std::{fmt, sync::Arc};

/// Core values that a function takes before its parameters go through memory.
const MAX_FLAT_PARAMS: usize = 16;

/// A type of the contract, as far as its layout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `bool`
    Bool,
    /// `u8`
    U8,
    /// `u32`
    U32,
    /// `u64`
    U64,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// `string`
    String,
    /// `own` or `borrow`: an index.
    Handle,
    /// `list`
    List(&'static Type),
    /// `record`, by its fields.
    Record(&'static [Type]),
    /// `variant`, `enum`, `option` (nothing, something) and `result` (ok, error),
    /// by what its cases carry.
    Variant(&'static [Option<Type>]),
}

/// A value of one of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    U8(u8),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
    String(String),
    Handle(u32),
    /// `list<u8>`
    Bytes(Arc<[u8]>),
    /// `list<f64>`
    F64s(Vec<f64>),
    /// `list<u64>`
    U64s(Vec<u64>),
    /// `list<u32>`
    U32s(Vec<u32>),
    List(Vec<Value>),
    Record(Vec<Value>),
    Variant(u32, Option<Box<Value>>),
}

/// A value of core WebAssembly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Core {
    I32(u32),
    I64(u64),
    F32(f32),
    F64(f64),
}

/// Why a value could not cross: the component broke the ABI, or a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbiError(pub String);

impl fmt::Display for AbiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Result<T> = std::result::Result<T, AbiError>;

fn broken<T>(what: impl Into<String>) -> Result<T> {
    Err(AbiError(what.into()))
}

/// A component's memory.
pub trait Memory {
    /// Copy bytes out.
    ///
    /// # Errors
    /// When they do not lie in the memory.
    fn read(&self, at: u32, into: &mut [u8]) -> Result<()>;

    /// Copy bytes in.
    ///
    /// # Errors
    /// When there is no room for them there.
    fn write(&self, at: u32, bytes: &[u8]) -> Result<()>;

    /// Room for so many bytes.
    ///
    /// # Errors
    /// When the component gives none.
    fn allocate(&self, align: u32, len: u32) -> Result<u32>;
}

impl Type {
    pub(super) fn align(self) -> u32 {
        match self {
            Self::Bool | Self::U8 => 1,
            Self::U32 | Self::F32 | Self::Handle | Self::String | Self::List(_) => 4,
            Self::U64 | Self::F64 => 8,
            Self::Record(fields) => fields.iter().map(|f| f.align()).max().unwrap_or(1),
            Self::Variant(cases) => discriminant_size(cases.len()).max(payload_align(cases)),
        }
    }

    pub(super) fn size(self) -> u32 {
        match self {
            Self::Bool | Self::U8 => 1,
            Self::U32 | Self::F32 | Self::Handle => 4,
            Self::U64 | Self::F64 | Self::String | Self::List(_) => 8,
            Self::Record(fields) => {
                let end = fields.iter().fold(0, |at, f| align_to(at, f.align()) + f.size());
                align_to(end, self.align())
            }
            Self::Variant(cases) => {
                let payload = cases.iter().flatten().map(|c| c.size()).max().unwrap_or(0);
                let at = align_to(discriminant_size(cases.len()), payload_align(cases));
                align_to(at + payload, self.align())
            }
        }
    }

    /// The core types that it is made of as a parameter.
    pub(super) fn flat(self) -> Vec<Kind> {
        match self {
            Self::Bool | Self::U8 | Self::U32 | Self::Handle => vec![Kind::I32],
            Self::U64 => vec![Kind::I64],
            Self::F32 => vec![Kind::F32],
            Self::F64 => vec![Kind::F64],
            Self::String | Self::List(_) => vec![Kind::I32, Kind::I32],
            Self::Record(fields) => fields.iter().flat_map(|f| f.flat()).collect(),
            Self::Variant(cases) => {
                let mut joined: Vec<Kind> = Vec::new();
                for case in cases.iter().flatten() {
                    for (i, kind) in case.flat().into_iter().enumerate() {
                        match joined.get_mut(i) {
                            Some(held) => *held = held.join(kind),
                            None => joined.push(kind),
                        }
                    }
                }
                joined.insert(0, Kind::I32);
                joined
            }
        }
    }
}

/// A core type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    I32,
    I64,
    F32,
    F64,
}

impl Kind {
    /// What holds either.
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::I32, Self::F32) | (Self::F32, Self::I32) => Self::I32,
            _ => Self::I64,
        }
    }

    /// A value of another type, in what holds it.
    fn hold(self, value: Core) -> Core {
        let bits = match value {
            Core::I32(v) => v.into(),
            Core::I64(v) => v,
            Core::F32(v) => v.to_bits().into(),
            Core::F64(v) => v.to_bits(),
        };
        match self {
            Self::I32 => Core::I32(bits as u32),
            Self::I64 => Core::I64(bits),
            Self::F32 => Core::F32(f32::from_bits(bits as u32)),
            Self::F64 => Core::F64(f64::from_bits(bits)),
        }
    }
}

fn align_to(at: u32, align: u32) -> u32 {
    at.div_ceil(align) * align
}

fn discriminant_size(cases: usize) -> u32 {
    match cases {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

fn payload_align(cases: &[Option<Type>]) -> u32 {
    cases.iter().flatten().map(|c| c.align()).max().unwrap_or(1)
}

/// Bytes that a call may still carry.
#[derive(Debug)]
pub struct Allowance(u64);

impl Allowance {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    fn take(&mut self, bytes: u64) -> Result<()> {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => broken("the call carries more bytes than the stage may"),
        }
    }
}

/// Values of some types that a function gives or is given in memory.
pub fn load(
    memory: &dyn Memory,
    types: &[Type],
    at: u32,
    left: &mut Allowance,
) -> Result<Vec<Value>> {
    let mut at = at;
    types
        .iter()
        .map(|t| {
            let here = aligned(at, t.align())?;
            at = here.checked_add(t.size()).ok_or_else(beyond)?;
            load_one(memory, *t, here, left)
        })
        .collect()
}

fn beyond() -> AbiError {
    AbiError("a value ends outside the component's memory".to_owned())
}

fn aligned(at: u32, align: u32) -> Result<u32> {
    at.checked_next_multiple_of(align).ok_or_else(beyond)
}

fn bytes<const N: usize>(memory: &dyn Memory, at: u32) -> Result<[u8; N]> {
    let mut read = [0; N];
    memory.read(at, &mut read)?;
    Ok(read)
}

fn u32_at(memory: &dyn Memory, at: u32) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(memory, at)?))
}

fn load_one(memory: &dyn Memory, t: Type, at: u32, left: &mut Allowance) -> Result<Value> {
    if !at.is_multiple_of(t.align()) {
        return broken("a value is not aligned");
    }
    Ok(match t {
        Type::Bool => Value::Bool(bytes::<1>(memory, at)?[0] != 0),
        Type::U8 => Value::U8(bytes::<1>(memory, at)?[0]),
        Type::U32 => Value::U32(u32_at(memory, at)?),
        Type::Handle => Value::Handle(u32_at(memory, at)?),
        Type::U64 => Value::U64(u64::from_le_bytes(bytes(memory, at)?)),
        Type::F32 => Value::F32(f32::from_le_bytes(bytes(memory, at)?)),
        Type::F64 => Value::F64(f64::from_le_bytes(bytes(memory, at)?)),
        Type::String | Type::List(_) => {
            let (start, len) = (u32_at(memory, at)?, u32_at(memory, at + 4)?);
            load_list(memory, t, start, len, left)?
        }
        Type::Record(fields) => Value::Record(load(memory, fields, at, left)?),
        Type::Variant(cases) => {
            let case = match discriminant_size(cases.len()) {
                1 => bytes::<1>(memory, at)?[0].into(),
                2 => u16::from_le_bytes(bytes(memory, at)?).into(),
                _ => u32_at(memory, at)?,
            };
            let payload = at + align_to(discriminant_size(cases.len()), payload_align(cases));
            let carried = match case_of(cases, case)? {
                Some(t) => Some(Box::new(load_one(memory, t, payload, left)?)),
                None => None,
            };
            Value::Variant(case, carried)
        }
    })
}

fn case_of(cases: &[Option<Type>], case: u32) -> Result<Option<Type>> {
    match cases.get(case as usize) {
        Some(carried) => Ok(*carried),
        None => broken(format!("case {case} of {}", cases.len())),
    }
}

fn load_list(
    memory: &dyn Memory,
    t: Type,
    at: u32,
    len: u32,
    left: &mut Allowance,
) -> Result<Value> {
    let element = match t {
        Type::List(element) => *element,
        _ => Type::U8,
    };
    let total = u64::from(len) * u64::from(element.size());
    // What it takes here is about as much; nothing is made before that is known.
    left.take(total.max(u64::from(len) * 16 * u64::from(!is_plain(element))))?;
    let total = match u32::try_from(total) {
        Ok(total) if at.checked_add(total).is_some() => total,
        _ => return Err(beyond()),
    };
    if len > 0 && !at.is_multiple_of(element.align()) {
        return broken("a list is not aligned");
    }
    if !is_plain(element) {
        let elements = (0..len).map(|i| load_one(memory, element, at + i * element.size(), left));
        return Ok(Value::List(elements.collect::<Result<_>>()?));
    }
    // Looked at before it is made, so that a length that lies takes no memory.
    if total > 0 {
        bytes::<1>(memory, at + total - 1)?;
    }
    if element == Type::U8 && t != Type::String {
        // Straight to where tensors keep their bytes.
        let mut raw: Arc<[u8]> = std::iter::repeat_n(0, total as usize).collect();
        if let Some(raw) = Arc::get_mut(&mut raw) {
            memory.read(at, raw)?;
        }
        return Ok(Value::Bytes(raw));
    }
    let mut raw = vec![0; total as usize];
    memory.read(at, &mut raw)?;
    Ok(match element {
        Type::U32 => Value::U32s(numbers(&raw, u32::from_le_bytes)),
        Type::U64 => Value::U64s(numbers(&raw, u64::from_le_bytes)),
        Type::F64 => Value::F64s(numbers(&raw, f64::from_le_bytes)),
        _ => match String::from_utf8(raw) {
            Ok(text) => Value::String(text),
            Err(_) => return broken("a string is not UTF-8"),
        },
    })
}

/// Whether a list of it is read in one piece.
fn is_plain(element: Type) -> bool {
    matches!(element, Type::U8 | Type::U32 | Type::U64 | Type::F64)
}

fn numbers<const N: usize, T>(raw: &[u8], one: fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|chunk| one(*chunk)).collect()
}

/// Values from the parameters of a call into the host.
pub fn lift(
    memory: &dyn Memory,
    types: &[Type],
    flat: &[Core],
    left: &mut Allowance,
) -> Result<Vec<Value>> {
    let kinds: usize = types.iter().map(|t| t.flat().len()).sum();
    let mut flat = flat.iter().copied();
    if kinds > MAX_FLAT_PARAMS {
        let Some(Core::I32(at)) = flat.next() else { return broken("no pointer to parameters") };
        return load(memory, types, at, left);
    }
    types.iter().map(|t| lift_one(memory, *t, &mut flat, left)).collect()
}

fn lift_one(
    memory: &dyn Memory,
    t: Type,
    flat: &mut dyn Iterator<Item = Core>,
    left: &mut Allowance,
) -> Result<Value> {
    fn word(flat: &mut dyn Iterator<Item = Core>) -> Result<u32> {
        match flat.next() {
            Some(Core::I32(v)) => Ok(v),
            other => broken(format!("a parameter is {other:?}, not an i32")),
        }
    }
    Ok(match t {
        Type::Bool => Value::Bool(word(flat)? != 0),
        Type::U8 => Value::U8(word(flat)? as u8),
        Type::U32 => Value::U32(word(flat)?),
        Type::Handle => Value::Handle(word(flat)?),
        Type::U64 => match flat.next() {
            Some(Core::I64(v)) => Value::U64(v),
            other => return broken(format!("a parameter is {other:?}, not an i64")),
        },
        Type::F32 => match flat.next() {
            Some(Core::F32(v)) => Value::F32(v),
            other => return broken(format!("a parameter is {other:?}, not an f32")),
        },
        Type::F64 => match flat.next() {
            Some(Core::F64(v)) => Value::F64(v),
            other => return broken(format!("a parameter is {other:?}, not an f64")),
        },
        Type::String | Type::List(_) => {
            let (at, len) = (word(flat)?, word(flat)?);
            load_list(memory, t, at, len, left)?
        }
        Type::Record(fields) => {
            let fields = fields.iter().map(|f| lift_one(memory, *f, flat, left));
            Value::Record(fields.collect::<Result<_>>()?)
        }
        Type::Variant(cases) => {
            let case = word(flat)?;
            let held: Vec<Core> = t.flat().iter().skip(1).filter_map(|_| flat.next()).collect();
            let carried = match case_of(cases, case)? {
                Some(t) => {
                    let mut own = t.flat().into_iter().zip(held).map(|(kind, v)| kind.hold(v));
                    Some(Box::new(lift_one(memory, t, &mut own, left)?))
                }
                None => None,
            };
            Value::Variant(case, carried)
        }
    })
}

/// A value put where the component can read it.
pub fn store(memory: &dyn Memory, t: Type, at: u32, value: &Value) -> Result<()> {
    match (t, value) {
        (Type::Bool, Value::Bool(v)) => memory.write(at, &[u8::from(*v)]),
        (Type::U8, Value::U8(v)) => memory.write(at, &[*v]),
        (Type::U32, Value::U32(v)) | (Type::Handle, Value::Handle(v)) => {
            memory.write(at, &v.to_le_bytes())
        }
        (Type::U64, Value::U64(v)) => memory.write(at, &v.to_le_bytes()),
        (Type::F32, Value::F32(v)) => memory.write(at, &v.to_le_bytes()),
        (Type::F64, Value::F64(v)) => memory.write(at, &v.to_le_bytes()),
        (Type::String | Type::List(_), _) => {
            let (start, len) = store_list(memory, t, value)?;
            memory.write(at, &start.to_le_bytes())?;
            memory.write(at + 4, &len.to_le_bytes())
        }
        (Type::Record(fields), Value::Record(values)) if fields.len() == values.len() => {
            let mut at = at;
            for (field, value) in fields.iter().zip(values) {
                at = align_to(at, field.align());
                store(memory, *field, at, value)?;
                at += field.size();
            }
            Ok(())
        }
        (Type::Variant(cases), Value::Variant(case, carried)) => {
            let size = discriminant_size(cases.len());
            memory.write(at, &case.to_le_bytes()[..size as usize])?;
            match (case_of(cases, *case)?, carried) {
                (Some(t), Some(value)) => {
                    store(memory, t, at + align_to(size, payload_align(cases)), value)
                }
                (None, None) => Ok(()),
                _ => mismatch(t, value),
            }
        }
        _ => mismatch(t, value),
    }
}

/// The host hands over what its own contract says; this is its bug.
fn mismatch<T>(t: Type, value: &Value) -> Result<T> {
    broken(format!("the host has no {t:?} in {value:?}"))
}

/// Where a string or list was put, and its length.
fn store_list(memory: &dyn Memory, t: Type, value: &Value) -> Result<(u32, u32)> {
    let put = |raw: &[u8], size: usize| {
        let len = u32::try_from(raw.len()).map_err(|_| beyond())?;
        let at = memory.allocate(u32::try_from(size).unwrap_or(8), len)?;
        memory.write(at, raw)?;
        Ok((at, len / u32::try_from(size).unwrap_or(1)))
    };
    match (t, value) {
        (Type::String, Value::String(text)) => put(text.as_bytes(), 1),
        (Type::List(Type::U8), Value::Bytes(raw)) => put(raw, 1),
        (Type::List(Type::U32), Value::U32s(v)) => put(&raw(v, |v| v.to_le_bytes()), 4),
        (Type::List(Type::U64), Value::U64s(v)) => put(&raw(v, |v| v.to_le_bytes()), 8),
        (Type::List(Type::F64), Value::F64s(v)) => put(&raw(v, |v| v.to_le_bytes()), 8),
        (Type::List(element), Value::List(values)) => {
            let len = u32::try_from(values.len()).map_err(|_| beyond())?;
            let total = len.checked_mul(element.size()).ok_or_else(beyond)?;
            let at = memory.allocate(element.align(), total)?;
            for (value, i) in values.iter().zip(0..) {
                store(memory, *element, at + i * element.size(), value)?;
            }
            Ok((at, len))
        }
        _ => mismatch(t, value),
    }
}

fn raw<const N: usize, T: Copy>(values: &[T], one: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| one(*v)).collect()
}

/// Parameters of a call into the component.
pub fn lower(memory: &dyn Memory, types: &[Type], values: &[Value]) -> Result<Vec<Core>> {
    let kinds: usize = types.iter().map(|t| t.flat().len()).sum();
    if kinds > MAX_FLAT_PARAMS {
        let (size, align) = types.iter().fold((0, 1), |(at, align), t| {
            (align_to(at, t.align()) + t.size(), align.max(t.align()))
        });
        let start = memory.allocate(align, size)?;
        let mut at = start;
        for (t, value) in types.iter().zip(values) {
            at = align_to(at, t.align());
            store(memory, *t, at, value)?;
            at += t.size();
        }
        return Ok(vec![Core::I32(start)]);
    }
    let mut flat = Vec::with_capacity(kinds);
    for (t, value) in types.iter().zip(values) {
        lower_one(memory, *t, value, &mut flat)?;
    }
    Ok(flat)
}

fn lower_one(memory: &dyn Memory, t: Type, value: &Value, flat: &mut Vec<Core>) -> Result<()> {
    match (t, value) {
        (Type::Bool, Value::Bool(v)) => flat.push(Core::I32((*v).into())),
        (Type::U8, Value::U8(v)) => flat.push(Core::I32((*v).into())),
        (Type::U32, Value::U32(v)) | (Type::Handle, Value::Handle(v)) => flat.push(Core::I32(*v)),
        (Type::U64, Value::U64(v)) => flat.push(Core::I64(*v)),
        (Type::F32, Value::F32(v)) => flat.push(Core::F32(*v)),
        (Type::F64, Value::F64(v)) => flat.push(Core::F64(*v)),
        (Type::String | Type::List(_), _) => {
            let (at, len) = store_list(memory, t, value)?;
            flat.extend([Core::I32(at), Core::I32(len)]);
        }
        (Type::Record(fields), Value::Record(values)) if fields.len() == values.len() => {
            for (field, value) in fields.iter().zip(values) {
                lower_one(memory, *field, value, flat)?;
            }
        }
        (Type::Variant(cases), Value::Variant(case, carried)) => {
            let mut own = Vec::new();
            match (case_of(cases, *case)?, carried) {
                (Some(t), Some(value)) => lower_one(memory, t, value, &mut own)?,
                (None, None) => {}
                _ => return mismatch(t, value),
            }
            flat.push(Core::I32(*case));
            let mut own = own.into_iter();
            flat.extend(t.flat().into_iter().skip(1).map(|kind| match own.next() {
                Some(value) => kind.hold(value),
                None => kind.hold(Core::I64(0)),
            }));
        }
        _ => return mismatch(t, value),
    }
    Ok(())
}

/// The core types of a call's parameters.
pub fn flat_params(types: &[Type]) -> Vec<Kind> {
    let kinds: Vec<Kind> = types.iter().flat_map(|t| t.flat()).collect();
    if kinds.len() > MAX_FLAT_PARAMS { vec![Kind::I32] } else { kinds }
}

/// Whether a result goes through memory rather than in a core value.
pub fn in_memory(t: Type) -> bool {
    t.flat().len() > 1
}

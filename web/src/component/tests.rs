//! The linker and the ABI against the tools that define them: wit-parser for
//! the contract's types and their layout, wit-component for components.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    cell::{Cell, RefCell},
    path::Path,
    sync::Arc,
};

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{
    Handle, LiftLowerAbi, ManglingAndAbi, Resolve, SizeAlign, Type as Wit, TypeDefKind, WorldId,
    abi::FlatTypes,
};

use super::{
    World, WorldError,
    abi::{self, AbiError, Allowance, Core, Memory, Type, Value},
    contract::{EXPORTS, IMPORTS, Signature},
    limit::limit_memory,
    plan::{CoreInstance, Plan, PlanError},
};

fn contract() -> (Resolve, wit_parser::PackageId) {
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_dir(wit).unwrap();
    (resolve, package)
}

fn world_of(resolve: &Resolve, package: wit_parser::PackageId, name: &str) -> WorldId {
    resolve.select_world(&[package], Some(name)).unwrap()
}

/// A component of a world that does nothing, as wit-component makes it.
fn component(name: &str) -> Vec<u8> {
    let (resolve, package) = contract();
    encode(&resolve, world_of(&resolve, package, name))
}

fn encode(resolve: &Resolve, world: WorldId) -> Vec<u8> {
    let mangling = ManglingAndAbi::Legacy(LiftLowerAbi::Sync);
    let mut module = dummy_module(resolve, world, mangling);
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A type of `wit/` as the ABI sees it.
fn of(resolve: &Resolve, t: &Wit) -> Type {
    let all = |types: Vec<Type>| -> &'static [Type] { types.leak() };
    let cases = |types: Vec<Option<Type>>| Type::Variant(types.leak());
    match t {
        Wit::Bool => Type::Bool,
        Wit::U8 => Type::U8,
        Wit::U32 => Type::U32,
        Wit::U64 => Type::U64,
        Wit::F32 => Type::F32,
        Wit::F64 => Type::F64,
        Wit::String => Type::String,
        Wit::Id(id) => match &resolve.types[*id].kind {
            TypeDefKind::Type(t) => of(resolve, t),
            TypeDefKind::List(t) => Type::List(Box::leak(Box::new(of(resolve, t)))),
            TypeDefKind::Record(r) => {
                Type::Record(all(r.fields.iter().map(|f| of(resolve, &f.ty)).collect()))
            }
            TypeDefKind::Variant(v) => {
                cases(v.cases.iter().map(|c| c.ty.map(|t| of(resolve, &t))).collect())
            }
            TypeDefKind::Enum(e) => cases(vec![None; e.cases.len()]),
            TypeDefKind::Option(t) => cases(vec![None, Some(of(resolve, t))]),
            TypeDefKind::Result(r) => {
                cases([r.ok, r.err].map(|t| t.map(|t| of(resolve, &t))).to_vec())
            }
            TypeDefKind::Handle(Handle::Own(_) | Handle::Borrow(_)) => Type::Handle,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn function<'a>(resolve: &'a Resolve, interface: &str, name: &str) -> &'a wit_parser::Function {
    let found = resolve
        .interfaces
        .iter()
        .find(|(id, i)| i.name.is_some() && resolve.id_of(*id).as_deref() == Some(interface));
    let (_, found) = found.unwrap_or_else(|| panic!("{interface} is not in wit/"));
    found.functions.get(name).unwrap_or_else(|| panic!("{interface} has no {name}"))
}

fn signatures() -> Vec<(String, String, Signature)> {
    let imports = IMPORTS.iter().map(|(i, f, _, s)| ((*i).to_owned(), (*f).to_owned(), *s));
    let exports =
        EXPORTS.iter().map(|e| (e.interface.to_owned(), e.function.to_owned(), e.signature));
    imports.chain(exports).collect()
}

#[test]
fn the_functions_are_those_of_the_contract() {
    let (resolve, _) = contract();
    for (interface, name, signature) in signatures() {
        let f = function(&resolve, &interface, &name);
        let params: Vec<Type> = f.params.iter().map(|p| of(&resolve, &p.ty)).collect();
        assert_eq!(signature.params, params, "{interface} {name}");
        assert_eq!(signature.result, f.result.map(|t| of(&resolve, &t)), "{interface} {name}");
    }
    // And the host leaves none out.
    for (id, interface) in &resolve.interfaces {
        let id = resolve.id_of(id).unwrap();
        let given = ["tensors", "inference", "log"];
        if interface.name.as_deref().is_some_and(|name| given.contains(&name)) {
            for name in interface.functions.keys() {
                assert!(IMPORTS.iter().any(|(i, f, ..)| *i == id && f == name), "{id} {name}");
            }
        }
    }
}

#[test]
fn layouts_are_wit_parsers() {
    let (resolve, _) = contract();
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    for (interface, name, _) in signatures() {
        let f = function(&resolve, &interface, &name);
        for t in f.params.iter().map(|p| p.ty).chain(f.result) {
            let ours = of(&resolve, &t);
            let at = format!("{interface} {name} {t:?}");
            assert_eq!(ours.size() as usize, sizes.size(&t).size_wasm32(), "{at}");
            assert_eq!(ours.align() as usize, sizes.align(&t).align_wasm32(), "{at}");
            let mut storage = [wit_parser::abi::WasmType::I32; 64];
            let mut flat = FlatTypes::new(&mut storage);
            assert!(resolve.push_flat(&t, &mut flat), "{at}");
            let theirs: Vec<String> = flat.to_vec().iter().map(|t| format!("{t:?}")).collect();
            let ours: Vec<String> = ours.flat().iter().map(|k| format!("{k:?}")).collect();
            // What holds a pointer or a length is an i32 here.
            let theirs: Vec<&str> = theirs
                .iter()
                .map(|t| match t.as_str() {
                    "Pointer" | "Length" => "I32",
                    "PointerOrI64" => "I64",
                    other => other,
                })
                .collect();
            assert_eq!(ours, theirs, "{at}");
        }
    }
}

/// A memory that hands out room from one end to the other.
struct Bytes {
    bytes: RefCell<Vec<u8>>,
    next: Cell<u32>,
}

impl Bytes {
    fn new(len: usize) -> Self {
        Self { bytes: RefCell::new(vec![0; len]), next: Cell::new(8) }
    }
}

fn outside() -> AbiError {
    AbiError("outside".to_owned())
}

impl Memory for Bytes {
    fn read(&self, at: u32, into: &mut [u8]) -> Result<(), AbiError> {
        let bytes = self.bytes.borrow();
        let from = bytes.get(at as usize..at as usize + into.len()).ok_or_else(outside)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, at: u32, given: &[u8]) -> Result<(), AbiError> {
        let mut bytes = self.bytes.borrow_mut();
        let to = bytes.get_mut(at as usize..at as usize + given.len()).ok_or_else(outside)?;
        to.copy_from_slice(given);
        Ok(())
    }

    fn allocate(&self, align: u32, len: u32) -> Result<u32, AbiError> {
        let at = self.next.get().next_multiple_of(align);
        self.next.set(at + len);
        if (at + len) as usize > self.bytes.borrow().len() { Err(outside()) } else { Ok(at) }
    }
}

/// A value of a type, from a number that decides all that is open.
fn sample(t: Type, seed: &mut u32) -> Value {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let n = *seed >> 8;
    match t {
        Type::Bool => Value::Bool(n % 2 == 1),
        Type::U8 => Value::U8(n as u8),
        Type::U32 => Value::U32(n),
        Type::Handle => Value::Handle(n),
        Type::U64 => Value::U64(u64::from(n) << 20 | 5),
        Type::F32 => Value::F32(n as f32 * 0.5),
        Type::F64 => Value::F64(f64::from(n) * -0.25),
        Type::String => Value::String("ä".repeat(n as usize % 5)),
        Type::List(Type::U8) => Value::Bytes(Arc::from(vec![n as u8; n as usize % 7])),
        Type::List(Type::U32) => Value::U32s(vec![n; n as usize % 4]),
        Type::List(Type::U64) => Value::U64s(vec![n.into(); n as usize % 4]),
        Type::List(Type::F64) => Value::F64s(vec![n.into(); n as usize % 4]),
        Type::List(t) => Value::List((0..n % 4).map(|_| sample(*t, seed)).collect()),
        Type::Record(fields) => Value::Record(fields.iter().map(|f| sample(*f, seed)).collect()),
        Type::Variant(cases) => {
            let case = n as usize % cases.len();
            Value::Variant(case as u32, cases[case].map(|t| Box::new(sample(t, seed))))
        }
    }
}

#[test]
fn what_is_stored_is_loaded_and_what_is_lowered_is_lifted() {
    let mut seed = 7;
    for round in 0..200 {
        for (interface, name, signature) in signatures() {
            let at = format!("{interface} {name}, round {round}");
            let memory = Bytes::new(1 << 16);
            let mut left = Allowance::new(1 << 20);
            let values: Vec<Value> =
                signature.params.iter().map(|t| sample(*t, &mut seed)).collect();
            let flat = abi::lower(&memory, signature.params, &values).unwrap();
            let back = abi::lift(&memory, signature.params, &flat, &mut left).unwrap();
            assert_eq!(back, values, "{at}");
            let Some(t) = signature.result else { continue };
            let value = sample(t, &mut seed);
            let room = memory.allocate(t.align(), t.size()).unwrap();
            abi::store(&memory, t, room, &value).unwrap();
            assert_eq!(abi::load(&memory, &[t], room, &mut left).unwrap(), [value], "{at}");
        }
    }
}

const BYTES: Type = Type::List(&Type::U8);
const TEXTS: Type = Type::List(&Type::String);

fn lift(t: Type, memory: &Bytes, at: u32, len: u32) -> Result<Vec<Value>, AbiError> {
    let mut left = Allowance::new(1 << 20);
    abi::lift(memory, &[t], &[Core::I32(at), Core::I32(len)], &mut left)
}

#[test]
fn a_list_outside_the_memory() {
    let memory = Bytes::new(64);
    for (at, len) in [(60, 5), (65, 0), (u32::MAX, 1), (1, u32::MAX), (0, 1 << 19)] {
        let outcome = lift(BYTES, &memory, at, len);
        assert!(outcome.is_err() || len == 0, "{at} {len} {outcome:?}");
    }
    assert!(lift(TEXTS, &memory, 8, u32::MAX).is_err());
    assert!(lift(Type::List(&Type::F64), &memory, u32::MAX - 7, 2).is_err());
}

#[test]
fn a_call_that_carries_more_than_it_may() {
    let memory = Bytes::new(4 << 20);
    let e = lift(BYTES, &memory, 8, 2 << 20).unwrap_err();
    assert_eq!(e.0, "the call carries more bytes than the stage may");
    // Many names for the same bytes are many bytes.
    let e = lift(TEXTS, &memory, 8, 200_000).unwrap_err();
    assert_eq!(e.0, "the call carries more bytes than the stage may");
}

#[test]
fn text_that_is_not_utf_8_a_case_that_is_not_there_and_a_list_askew() {
    let memory = Bytes::new(64);
    memory.write(8, &[0xff, 0xfe]).unwrap();
    assert_eq!(lift(Type::String, &memory, 8, 2).unwrap_err().0, "a string is not UTF-8");
    let mut left = Allowance::new(100);
    let five = Type::Variant(&[None; 5]);
    let e = abi::lift(&memory, &[five], &[Core::I32(5)], &mut left).unwrap_err();
    assert_eq!(e.0, "case 5 of 5");
    assert_eq!(abi::load(&memory, &[five], 8, &mut left).unwrap_err().0, "case 255 of 5");
    let e = lift(Type::List(&Type::U64), &memory, 9, 1).unwrap_err();
    assert_eq!(e.0, "a list is not aligned");
    let e = abi::lift(&memory, &[Type::U64], &[Core::I32(5)], &mut left).unwrap_err();
    assert!(e.0.contains("not an i64"), "{e}");
}

#[test]
fn a_component_of_each_world_has_a_plan() {
    for (name, world) in [
        ("preprocess", World::Preprocess),
        ("model", World::Model),
        ("postprocess", World::Postprocess),
        ("monitor", World::Monitor),
    ] {
        let component = component(name);
        let plan = world.read(&component).unwrap();
        assert!(plan.instances.iter().any(|i| matches!(i, CoreInstance::Module { .. })));
        for module in &plan.modules {
            assert_eq!(&component[module.start..module.start + 4], b"\0asm", "{name}");
        }
    }
}

#[test]
fn a_component_of_another_world_or_version() {
    let e = World::Model.read(&component("preprocess")).unwrap_err();
    let WorldError::WrongWorld { missing, .. } = e else { panic!("{e}") };
    assert!(missing.contains("predictor"), "{missing}");
    let mut other = component("preprocess");
    let (from, to) = (b"headland:pipeline/log@0.1.0", b"headland:pipeline/log@0.2.0");
    let places: Vec<usize> =
        other.windows(from.len()).enumerate().filter(|(_, w)| w == from).map(|(i, _)| i).collect();
    assert!(!places.is_empty());
    for at in places {
        other[at..at + to.len()].copy_from_slice(to);
    }
    let e = World::Preprocess.read(&other).unwrap_err();
    assert!(
        matches!(&e, WorldError::WrongVersion { found } if found.ends_with("log@0.2.0")),
        "{e}"
    );
}

#[test]
fn a_component_that_imports_what_its_world_is_not_granted() {
    let (mut resolve, _) = contract();
    let text = "package test:greedy;\n\
                world greedy {\n\
                    include headland:pipeline/preprocess@0.1.0;\n\
                    import headland:pipeline/inference@0.1.0;\n\
                }";
    let package = resolve.push_str("greedy.wit", text).unwrap();
    let greedy = encode(&resolve, world_of(&resolve, package, "greedy"));
    let e = World::Preprocess.read(&greedy).unwrap_err();
    let import = "headland:pipeline/inference@0.1.0".to_owned();
    assert_eq!(e, WorldError::NotGranted { world: World::Preprocess, import });
    assert!(!World::Monitor.imports("headland:pipeline/tensors@0.1.0"));
    assert!(!World::Model.imports("wasi:filesystem/types@0.2.9"));
}

#[test]
fn what_is_no_component() {
    let module = wat::parse_str("(module)").unwrap();
    let e = Plan::read(&module).unwrap_err();
    assert_eq!(e, PlanError::Invalid("a core module, not a component".to_owned()));
    for bytes in [&b""[..], b"\0asm", b"not wasm at all", b"\0asm\x0d\0\x01"] {
        match Plan::read(bytes) {
            Ok(plan) => assert!(plan.exports.is_empty(), "{bytes:?}"),
            Err(e) => assert!(matches!(e, PlanError::Invalid(_)), "{e}"),
        }
    }
}

#[test]
fn a_component_cut_short_or_damaged_is_refused_or_read_without_a_panic() {
    let whole = component("monitor");
    for len in 0..whole.len() {
        let _ = World::Monitor.read(&whole[..len]);
    }
    let mut seed = 1u32;
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        for _ in 0..=seed % 3 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (seed >> 4) as usize % damaged.len();
            damaged[at] = (seed >> 13) as u8;
        }
        let _ = World::Monitor.read(&damaged);
    }
}

#[test]
fn a_component_that_nests_without_end_is_refused() {
    let mut text = "(component)".to_owned();
    for _ in 0..20 {
        text = format!("(component {text} (instance (instantiate 0)))");
    }
    let e = Plan::read(&wat::parse_str(text).unwrap()).unwrap_err();
    assert!(e.to_string().contains("nest deeper"), "{e}");
    // Twice in each of many levels is exponential.
    let mut text = "(component)".to_owned();
    for _ in 0..6 {
        let twice = "(instance (instantiate 0))".repeat(16);
        text = format!("(component {text} {twice})");
    }
    let e = Plan::read(&wat::parse_str(text).unwrap()).unwrap_err();
    assert!(e.to_string().contains("definitions"), "{e}");
}

fn valid(module: &[u8]) -> bool {
    wasmparser::Validator::new().validate_all(module).is_ok()
}

#[test]
fn a_memory_is_held_to_its_limit() {
    let maximum = |module: &[u8]| {
        wasmparser::Parser::new(0).parse_all(module).find_map(|p| match p.unwrap() {
            wasmparser::Payload::MemorySection(m) => m.into_iter().next().unwrap().unwrap().maximum,
            _ => None,
        })
    };
    for (memory, expected) in [("1", 16), ("1 4", 4), ("16 1000", 16), ("0", 16)] {
        let text =
            format!("(module (func (export \"f\")) (memory {memory}) (data (i32.const 0) \"\"))");
        let limited = limit_memory(&wat::parse_str(text).unwrap(), 16 << 16).unwrap();
        assert!(valid(&limited));
        assert_eq!(maximum(&limited), Some(expected), "{memory}");
    }
    let e = limit_memory(&wat::parse_str("(module (memory 17))").unwrap(), 16 << 16).unwrap_err();
    assert_eq!(e, "memory limit: 1114112 bytes wanted, 1048576 allowed");
    let wide = wat::parse_str("(module (memory i64 1))").unwrap();
    assert!(limit_memory(&wide, 16 << 16).is_err());
    let module = wat::parse_str("(module (memory 1) (func (export \"f\")))").unwrap();
    for len in 0..module.len() {
        let _ = limit_memory(&module[..len], 1 << 20);
    }
}

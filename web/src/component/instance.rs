//! Instances of components in the browser's WebAssembly.

use std::{cell::RefCell, rc::Rc};

use js_sys::{Array, BigInt, Function, Object, Reflect, Uint8Array, WebAssembly};
use wasm_bindgen::prelude::*;

use super::{
    abi::{self, AbiError, Allowance, Core, Kind, Memory, Value},
    contract::{Export, IMPORTS, Import, Signature},
    host::{CallError, HostState},
    limit::limit_memory,
    plan::{CoreInstance, CoreItem, HandleOp, Lifted, Lowered, Plan, Resource},
};

#[wasm_bindgen(inline_js = "
export function variadic(f) { return (...args) => f(args); }
export function watch(stage, ms) { self.headlandWatch?.(stage, ms); }
")]
extern "C" {
    /// A function of as many arguments as it gets, from one of their list.
    fn variadic(f: &JsValue) -> Function;
    /// Tell the page that a call into a component starts (or, with null, that
    /// it has ended), so that it can stop a runaway: nothing in here can.
    fn watch(stage: JsValue, ms: f64);
}

/// A component whose modules are compiled.
pub struct Compiled {
    plan: Plan,
    modules: Vec<WebAssembly::Module>,
}

impl Compiled {
    /// Compile the modules of a component, whose memories may have so many bytes.
    ///
    /// # Errors
    /// What the browser says of them.
    pub fn new(component: &[u8], plan: Plan, memory_bytes: u64) -> Result<Self, CallError> {
        let compile = |range: &std::ops::Range<usize>| {
            let bytes = component
                .get(range.clone())
                .ok_or_else(|| CallError::Trap("a module ends outside its component".to_owned()))?;
            let bytes = limit_memory(bytes, memory_bytes).map_err(CallError::Limit)?;
            WebAssembly::Module::new(&Uint8Array::from(&bytes[..]).into())
                .map_err(|e| CallError::Trap(text(&e)))
        };
        let modules = plan.modules.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { plan, modules })
    }
}

/// What the browser throws, as text.
fn text(e: &JsValue) -> String {
    let message = Reflect::get(e, &"message".into()).ok().and_then(|m| m.as_string());
    message.or_else(|| e.as_string()).unwrap_or_else(|| format!("{e:?}"))
}

/// What an instance's functions in the host share with it.
struct Shared {
    host: RefCell<HostState>,
    /// The exports of each core instance so far.
    exports: RefCell<Vec<JsValue>>,
}

type HostFunction = Closure<dyn Fn(Array) -> Result<JsValue, JsValue>>;

/// An instance of a component.
pub struct Instance {
    compiled: Rc<Compiled>,
    shared: Rc<Shared>,
    /// Alive for as long as the instance may call them.
    _functions: Vec<HostFunction>,
}

/// A component's memory, and what makes room in it.
struct GuestMemory {
    memory: WebAssembly::Memory,
    realloc: Option<Function>,
}

impl GuestMemory {
    fn view(&self, at: u32, len: usize) -> Result<Uint8Array, AbiError> {
        let buffer = self.memory.buffer();
        let all = Uint8Array::new(&buffer);
        let end = (at as usize).checked_add(len);
        match end.and_then(|end| u32::try_from(end).ok()) {
            Some(end) if end <= all.length() => Ok(all.subarray(at, end)),
            _ => Err(AbiError(format!("{len} bytes at {at} are outside the component's memory"))),
        }
    }
}

impl Memory for GuestMemory {
    fn read(&self, at: u32, into: &mut [u8]) -> Result<(), AbiError> {
        self.view(at, into.len())?.copy_to(into);
        Ok(())
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), AbiError> {
        self.view(at, bytes.len())?.copy_from(bytes);
        Ok(())
    }

    fn allocate(&self, align: u32, len: u32) -> Result<u32, AbiError> {
        let realloc = self
            .realloc
            .as_ref()
            .ok_or_else(|| AbiError("the component has no cabi_realloc".to_owned()))?;
        let args: Array = [0, 0, align, len].into_iter().map(|n| JsValue::from(n as i32)).collect();
        let at = realloc.apply(&JsValue::UNDEFINED, &args).map_err(|e| AbiError(text(&e)))?;
        let at = at.as_f64().unwrap_or(-1.0) as i64 as u32;
        if !at.is_multiple_of(align) {
            return Err(AbiError("cabi_realloc gave room that is not aligned".to_owned()));
        }
        Ok(at)
    }
}

fn core(kind: Kind, value: &JsValue) -> Option<Core> {
    Some(match kind {
        Kind::I32 => Core::I32(value.as_f64()? as i64 as u32),
        Kind::I64 => {
            let value = BigInt::as_uint_n(64.0, value.dyn_ref::<BigInt>()?);
            Core::I64(u64::try_from(value).ok()?)
        }
        Kind::F32 => Core::F32(value.as_f64()? as f32),
        Kind::F64 => Core::F64(value.as_f64()?),
    })
}

fn js(value: Core) -> JsValue {
    match value {
        Core::I32(v) => JsValue::from(v as i32),
        Core::I64(v) => JsValue::from(BigInt::from(v)),
        Core::F32(v) => JsValue::from(v),
        Core::F64(v) => JsValue::from(v),
    }
}

impl Shared {
    fn item(&self, item: &CoreItem) -> Result<JsValue, CallError> {
        match item {
            CoreItem::Export { instance, name } => {
                let exports = self.exports.borrow();
                let missing = || CallError::Trap(format!("a core instance has no {name:?}"));
                let exports = exports.get(*instance).ok_or_else(missing)?;
                let found = Reflect::get(exports, &name.into()).map_err(|_| missing())?;
                if found.is_undefined() { Err(missing()) } else { Ok(found) }
            }
            _ => Err(CallError::Trap("a function of the host where one is called".to_owned())),
        }
    }

    fn function(&self, item: &CoreItem) -> Result<Function, CallError> {
        self.item(item)?
            .dyn_into()
            .map_err(|_| CallError::Trap("what should be a function is none".to_owned()))
    }

    fn memory(
        &self,
        memory: Option<&CoreItem>,
        realloc: Option<&CoreItem>,
    ) -> Result<GuestMemory, CallError> {
        let memory = match memory {
            Some(item) => self.item(item)?.dyn_into::<WebAssembly::Memory>(),
            None => {
                // A function whose types need none is given an empty one.
                let empty = Object::new();
                let _ = Reflect::set(&empty, &"initial".into(), &0.into());
                WebAssembly::Memory::new(&empty)
            }
        };
        let memory =
            memory.map_err(|_| CallError::Trap("what should be a memory is none".to_owned()))?;
        let realloc = realloc.map(|item| self.function(item)).transpose()?;
        Ok(GuestMemory { memory, realloc })
    }

    /// Run a function of the host for the component.
    fn host_call(
        &self,
        lowered: &Lowered,
        import: Import,
        signature: &Signature,
        args: &Array,
    ) -> Result<JsValue, CallError> {
        let broken = |e: AbiError| CallError::Trap(e.0);
        let memory = self.memory(lowered.memory.as_ref(), lowered.realloc.as_ref())?;
        let kinds = abi::flat_params(signature.params);
        let flat: Option<Vec<Core>> =
            kinds.iter().zip(args.iter()).map(|(kind, value)| core(*kind, &value)).collect();
        let flat = flat
            .filter(|flat| flat.len() == kinds.len())
            .ok_or_else(|| CallError::Trap("a call into the host lacks arguments".to_owned()))?;
        let mut allowance = Allowance::new(self.host.borrow().limits().hostcall_bytes);
        let params = abi::lift(&memory, signature.params, &flat, &mut allowance).map_err(broken)?;
        let value = self.host.borrow_mut().call(import, params)?;
        match (signature.result, value) {
            (Some(t), Some(value)) if abi::in_memory(t) => {
                let at = args.get(kinds.len() as u32).as_f64().unwrap_or(-1.0) as i64 as u32;
                abi::store(&memory, t, at, &value).map_err(broken)?;
                Ok(JsValue::UNDEFINED)
            }
            (Some(t), Some(value)) => {
                let flat = abi::lower(&memory, &[t], &[value]).map_err(broken)?;
                Ok(flat.first().map_or(JsValue::UNDEFINED, |v| js(*v)))
            }
            _ => Ok(JsValue::UNDEFINED),
        }
    }

    fn handle_call(
        &self,
        op: HandleOp,
        own: Option<&Destructor>,
        arg: u32,
    ) -> Result<JsValue, CallError> {
        let mut host = self.host.borrow_mut();
        match op {
            HandleOp::New => host.own_new(arg).map(|handle| JsValue::from(handle as i32)),
            HandleOp::Rep => host.own_representation(arg).map(|rep| JsValue::from(rep as i32)),
            HandleOp::Drop => {
                let representation = host.drop_handle(arg)?;
                drop(host);
                if let (Some(representation), Some(own)) = (representation, own) {
                    self.function(&own.0)?
                        .call1(&JsValue::UNDEFINED, &JsValue::from(representation as i32))
                        .map_err(|e| CallError::Trap(text(&e)))?;
                }
                Ok(JsValue::UNDEFINED)
            }
        }
    }

    /// Remember why the instance ends, and end it.
    fn stop(&self, why: CallError) -> JsValue {
        let message = why.to_string();
        // What it is busy with is its own call; that says more.
        if let Ok(mut host) = self.host.try_borrow_mut() {
            host.stopped.get_or_insert(why);
        }
        js_sys::Error::new(&message).into()
    }
}

/// What ends a resource of a component's own.
struct Destructor(CoreItem);

impl Instance {
    /// Instantiate.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn new(compiled: Rc<Compiled>, host: HostState) -> Result<Self, CallError> {
        let shared = Rc::new(Shared { host: RefCell::new(host), exports: RefCell::default() });
        let mut functions = Vec::new();
        let _watched = Watched::call(&shared.host.borrow());
        for instance in &compiled.plan.instances {
            let exports: JsValue = match instance {
                CoreInstance::Items(items) => {
                    let object = Object::new();
                    for (name, item) in items {
                        let value = core_item(&shared, item, &mut functions)?;
                        set(&object, name, &value);
                    }
                    object.into()
                }
                CoreInstance::Module { module, arguments } => {
                    let imports = Object::new();
                    for (name, instance) in arguments {
                        let given = shared.exports.borrow().get(*instance).cloned();
                        set(&imports, name, &given.unwrap_or(JsValue::UNDEFINED));
                    }
                    let module = compiled
                        .modules
                        .get(*module)
                        .ok_or_else(|| CallError::Trap("a module that is not there".to_owned()))?;
                    let made = WebAssembly::Instance::new(module, &imports);
                    made.map_err(|e| stopped(&shared, &e))?.exports().into()
                }
            };
            shared.exports.borrow_mut().push(exports);
        }
        Ok(Self { compiled, shared, _functions: functions })
    }

    /// What the instance has in the host.
    pub fn host(&self) -> std::cell::RefMut<'_, HostState> {
        self.shared.host.borrow_mut()
    }

    /// Call a function of the component, and take its result.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&self, export: &Export, params: &[Value]) -> Result<Value, CallError> {
        let broken = |e: AbiError| {
            self.shared.host.borrow_mut().stopped.take().unwrap_or(CallError::Trap(e.0))
        };
        let lifted: &Lifted = self
            .compiled
            .plan
            .exports
            .get(export.interface)
            .and_then(|functions| functions.get(export.function))
            .ok_or_else(|| CallError::Trap(format!("{} is not there", export.function)))?;
        self.shared.host.borrow_mut().begin_call();
        let _watched = Watched::call(&self.shared.host.borrow());
        let memory = self.shared.memory(lifted.memory.as_ref(), lifted.realloc.as_ref())?;
        let flat = abi::lower(&memory, export.signature.params, params).map_err(broken)?;
        let args: Array = flat.into_iter().map(js).collect();
        let given = self
            .shared
            .function(&lifted.core)?
            .apply(&JsValue::UNDEFINED, &args)
            .map_err(|e| stopped(&self.shared, &e))?;
        let Some(t) = export.signature.result else { return Ok(Value::Record(Vec::new())) };
        let mut allowance = Allowance::new(self.shared.host.borrow().limits().hostcall_bytes);
        let value = if abi::in_memory(t) {
            let at = given.as_f64().unwrap_or(-1.0) as i64 as u32;
            abi::load(&memory, &[t], at, &mut allowance).map_err(broken)?
        } else {
            let kinds = abi::flat_params(&[t]);
            let flat = kinds.first().and_then(|kind| core(*kind, &given));
            let flat: Vec<Core> = flat.into_iter().collect();
            abi::lift(&memory, &[t], &flat, &mut allowance).map_err(broken)?
        };
        if let Some(post) = &lifted.post_return {
            let post = self.shared.function(post)?;
            post.call1(&JsValue::UNDEFINED, &given).map_err(|e| stopped(&self.shared, &e))?;
        }
        value.into_iter().next().ok_or_else(|| CallError::Trap("no result".to_owned()))
    }
}

fn set(object: &Object, name: &str, value: &JsValue) {
    // A fresh object takes any key.
    let _ = Reflect::set(object, &name.into(), value);
}

/// Why a call threw: what the host stopped it for, or a trap.
fn stopped(shared: &Shared, e: &JsValue) -> CallError {
    let told = shared.host.borrow_mut().stopped.take();
    told.unwrap_or_else(|| {
        let said = text(e);
        // How browsers word what the stack limit is to a native host.
        if e.dyn_ref::<js_sys::RangeError>().is_some() && said.contains("call stack") {
            CallError::Limit("stack limit: the call needs more stack than there is".to_owned())
        } else {
            CallError::Trap(said)
        }
    })
}

fn core_item(
    shared: &Rc<Shared>,
    item: &CoreItem,
    functions: &mut Vec<HostFunction>,
) -> Result<JsValue, CallError> {
    let of = Rc::clone(shared);
    let function: HostFunction = match item {
        CoreItem::Export { .. } => return shared.item(item),
        CoreItem::Lowered(lowered) => {
            let known = IMPORTS.iter().find(|(interface, name, ..)| {
                *interface == lowered.interface && *name == lowered.function
            });
            let Some((_, _, import, signature)) = known else {
                return Err(CallError::Trap(format!(
                    "{} has no {}",
                    lowered.interface, lowered.function
                )));
            };
            let (lowered, import, signature) = ((**lowered).clone(), *import, *signature);
            Closure::new(move |args: Array| {
                of.host_call(&lowered, import, &signature, &args).map_err(|why| of.stop(why))
            })
        }
        CoreItem::Handle(op, resource) => {
            let op = *op;
            let own = match resource {
                Resource::Own { destructor: Some(item), .. } => Some(Destructor((**item).clone())),
                _ => None,
            };
            Closure::new(move |args: Array| {
                let arg = args.get(0).as_f64().unwrap_or(-1.0) as i64 as u32;
                of.handle_call(op, own.as_ref(), arg).map_err(|why| of.stop(why))
            })
        }
    };
    let value = variadic(function.as_ref());
    functions.push(function);
    Ok(value.into())
}

/// While it lives, the page watches the clock for a stage.
pub struct Watched;

impl Watched {
    /// The stage may take so long from now on.
    pub fn start(stage: &str, time_ms: u64) -> Self {
        watch(stage.into(), time_ms as f64);
        Self
    }

    fn call(host: &HostState) -> Self {
        Self::start(host.stage(), host.limits().time_ms)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        watch(JsValue::NULL, 0.0);
    }
}

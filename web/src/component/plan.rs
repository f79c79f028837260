//! What instantiating a component does, read from its binary.
//!
//! A component is a list of definitions that only name each other: core modules,
//! how they are instantiated with each other's exports and with lowered imports,
//! and which of their functions are lifted to be the component's own. All of it
//! is known without running anything, so [`Plan::read`] evaluates the
//! definitions symbolically, nested components included, and leaves a list of
//! core instances to make and functions to call.
//!
//! Types are not looked at: the worlds are fixed, and a package is checked
//! against them when it is built. Whatever a component that lies about its types
//! hands over is checked where it arrives (see [`abi`](super::abi)).
//!
//! # Source
//! The Component Model's binary format,
//! <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentType, Encoding, ExternalKind, Instance, Parser, Payload,
};

/// How deep components may nest: those of tools have two levels.
const MAX_DEPTH: usize = 8;

/// Definitions of a component, nested ones included. A Python interpreter's has
/// some hundreds.
const MAX_DEFINITIONS: usize = 100_000;

/// Why a component has no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not the binary format.
    #[error("invalid component: {0}")]
    Invalid(String),
    /// What this runtime leaves out.
    #[error("the component uses {0}, which this runtime leaves out")]
    Unsupported(&'static str),
}

impl From<wasmparser::BinaryReaderError> for PlanError {
    fn from(e: wasmparser::BinaryReaderError) -> Self {
        Self::Invalid(e.to_string())
    }
}

/// What instantiating a component does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Where the core modules are in the component's bytes.
    pub modules: Vec<Range<usize>>,
    /// The core instances to make, in order.
    pub instances: Vec<CoreInstance>,
    /// Functions of the component, by interface and name.
    pub exports: BTreeMap<String, BTreeMap<String, Lifted>>,
    /// Interfaces that it imports.
    pub imports: BTreeSet<String>,
}

/// A core instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreInstance {
    /// A module, given instances under names.
    Module {
        /// Its index in [`Plan::modules`].
        module: usize,
        /// Names of import modules, and instances by their index in
        /// [`Plan::instances`].
        arguments: Vec<(String, usize)>,
    },
    /// Items under names.
    Items(Vec<(String, CoreItem)>),
}

/// An item of core WebAssembly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreItem {
    /// What an instance exports under a name.
    Export {
        /// Its index in [`Plan::instances`].
        instance: usize,
        /// The name.
        name: String,
    },
    /// An imported function.
    Lowered(Box<Lowered>),
    /// A function that manages handles.
    Handle(HandleOp, Resource),
}

/// An imported function of the component as core WebAssembly calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// The interface.
    pub interface: String,
    /// The function in it.
    pub function: String,
    /// Where its strings and lists are.
    pub memory: Option<CoreItem>,
    /// What makes room for those that it gives.
    pub realloc: Option<CoreItem>,
}

/// A function of the component as core WebAssembly has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    /// The function.
    pub core: CoreItem,
    /// Where its strings and lists are.
    pub memory: Option<CoreItem>,
    /// What makes room for those that it takes.
    pub realloc: Option<CoreItem>,
    /// What to call when its result has been read.
    pub post_return: Option<CoreItem>,
}

/// What is done with a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleOp {
    /// `resource.new`: a handle for a representation.
    New,
    /// `resource.drop`: give a handle up.
    Drop,
    /// `resource.rep`: the representation behind a handle.
    Rep,
}

/// A resource type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// One that the component imports.
    Imported {
        /// The interface.
        interface: String,
        /// Its name in there.
        name: String,
    },
    /// One that it defines.
    Own {
        /// How many it defined before.
        index: usize,
        /// What to call with the representation when the last handle goes.
        destructor: Option<Box<CoreItem>>,
    },
}

impl Plan {
    /// Read a component.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn read(component: &[u8]) -> Result<Self, PlanError> {
        let mut reading = Reading { bytes: component, plan: Self::default(), own: 0, budget: 0 };
        let exports = reading.component(0..component.len(), None, 0)?;
        for (name, item) in exports {
            // Worlds export interfaces; what else there is, nobody calls.
            let Item::Instance(InstanceItem::Of(items)) = item else { continue };
            let functions = items.into_iter().filter_map(|(name, item)| match item {
                Item::Func(Func::Lifted(lifted)) => Some((name, *lifted)),
                _ => None,
            });
            reading.plan.exports.insert(name, functions.collect());
        }
        Ok(reading.plan)
    }
}

/// An item of a component, as far as it matters here.
#[derive(Debug, Clone)]
enum Item {
    Module(usize),
    Func(Func),
    Type(Type),
    Instance(InstanceItem),
    Component(Range<usize>),
}

#[derive(Debug, Clone)]
enum Func {
    Imported { interface: String, name: String },
    Lifted(Box<Lifted>),
}

#[derive(Debug, Clone)]
enum Type {
    Resource(Resource),
    Other,
}

#[derive(Debug, Clone)]
enum InstanceItem {
    /// An imported interface: whatever is asked of it is there.
    Imported(String),
    Of(BTreeMap<String, Item>),
}

/// The definitions of one component so far, by index space.
#[derive(Default)]
struct Spaces {
    modules: Vec<usize>,
    core_instances: Vec<usize>,
    core_funcs: Vec<CoreItem>,
    core_memories: Vec<CoreItem>,
    core_tables: Vec<CoreItem>,
    core_globals: Vec<CoreItem>,
    core_tags: Vec<CoreItem>,
    funcs: Vec<Func>,
    types: Vec<Type>,
    instances: Vec<InstanceItem>,
    components: Vec<Range<usize>>,
}

struct Reading<'a> {
    bytes: &'a [u8],
    plan: Plan,
    /// Resources that components have defined.
    own: usize,
    /// Definitions so far.
    budget: usize,
}

type Items = BTreeMap<String, Item>;

fn at<'a, T>(space: &'a [T], index: u32, what: &str) -> Result<&'a T, PlanError> {
    space
        .get(index as usize)
        .ok_or_else(|| PlanError::Invalid(format!("{what} {index} is not defined")))
}

impl Reading<'_> {
    fn count(&mut self) -> Result<(), PlanError> {
        self.budget += 1;
        if self.budget > MAX_DEFINITIONS {
            return Err(PlanError::Invalid(format!("more than {MAX_DEFINITIONS} definitions")));
        }
        Ok(())
    }

    /// Evaluate the component in a range of the bytes; gives what it exports.
    /// `arguments` are what a nested one is instantiated with.
    fn component(
        &mut self,
        range: Range<usize>,
        arguments: Option<&Items>,
        depth: usize,
    ) -> Result<Items, PlanError> {
        if depth == MAX_DEPTH {
            return Err(PlanError::Invalid(format!("components nest deeper than {MAX_DEPTH}")));
        }
        let all = self.bytes;
        let outside = || PlanError::Invalid("a section ends outside the component".to_owned());
        let mut data = all.get(range.clone()).ok_or_else(outside)?;
        let mut parser = Parser::new(range.start as u64);
        let (mut spaces, mut exports) = (Spaces::default(), Items::new());
        while !data.is_empty() {
            let (consumed, payload) = match parser.parse(data, true)? {
                wasmparser::Chunk::Parsed { consumed, payload } => (consumed, payload),
                wasmparser::Chunk::NeedMoreData(_) => return Err(outside()),
            };
            // The parser stands behind what is nested; its bytes are still here.
            let mut skip = 0;
            match payload {
                Payload::Version { encoding: Encoding::Component, .. } => {}
                Payload::Version { .. } => {
                    return Err(PlanError::Invalid("a core module, not a component".to_owned()));
                }
                Payload::ModuleSection { unchecked_range, .. } => {
                    self.count()?;
                    skip = unchecked_range.len();
                    spaces.modules.push(self.plan.modules.len());
                    self.plan.modules.push(unchecked_range);
                }
                Payload::ComponentSection { unchecked_range, .. } => {
                    self.count()?;
                    skip = unchecked_range.len();
                    spaces.components.push(unchecked_range);
                }
                Payload::InstanceSection(section) => {
                    for instance in section {
                        let instance = self.core_instance(&spaces, instance?)?;
                        spaces.core_instances.push(self.plan.instances.len());
                        self.plan.instances.push(instance);
                    }
                }
                Payload::ComponentInstanceSection(section) => {
                    for instance in section {
                        let made = self.instance(&spaces, instance?, depth)?;
                        spaces.instances.push(made);
                    }
                }
                Payload::ComponentAliasSection(section) => {
                    for alias in section {
                        self.count()?;
                        spaces.alias(alias?)?;
                    }
                }
                Payload::ComponentTypeSection(section) => {
                    for definition in section {
                        self.count()?;
                        let made = match definition? {
                            ComponentType::Resource { dtor, .. } => {
                                let destructor = dtor
                                    .map(|i| at(&spaces.core_funcs, i, "core function").cloned())
                                    .transpose()?
                                    .map(Box::new);
                                self.own += 1;
                                let index = self.own - 1;
                                Type::Resource(Resource::Own { index, destructor })
                            }
                            _ => Type::Other,
                        };
                        spaces.types.push(made);
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    for function in section {
                        self.count()?;
                        spaces.canonical(function?)?;
                    }
                }
                Payload::ComponentImportSection(section) => {
                    for import in section {
                        self.count()?;
                        let import = import?;
                        let (name, kind) = (import.name.name, import.ty.kind());
                        let item = match arguments {
                            Some(given) => given.get(name).cloned().ok_or_else(|| {
                                PlanError::Invalid(format!("a nested component lacks {name:?}"))
                            })?,
                            None => self.import(name, kind)?,
                        };
                        spaces.define(kind, item)?;
                    }
                }
                Payload::ComponentExportSection(section) => {
                    for export in section {
                        self.count()?;
                        let export = export?;
                        let item = spaces.item(export.kind, export.index)?;
                        spaces.define(export.kind, item.clone())?;
                        exports.insert(export.name.name.to_owned(), item);
                    }
                }
                Payload::ComponentStartSection { .. } => {
                    return Err(PlanError::Unsupported("a start function of a component"));
                }
                // Core types describe, and custom sections are for tools.
                _ => {}
            }
            data = data.get(consumed + skip..).ok_or_else(outside)?;
        }
        Ok(exports)
    }

    /// An import of the component itself.
    fn import(&mut self, name: &str, kind: ComponentExternalKind) -> Result<Item, PlanError> {
        self.plan.imports.insert(name.to_owned());
        match kind {
            ComponentExternalKind::Instance => {
                Ok(Item::Instance(InstanceItem::Imported(name.to_owned())))
            }
            _ => Err(PlanError::Unsupported("an import that is no interface")),
        }
    }

    fn core_instance(
        &mut self,
        spaces: &Spaces,
        instance: Instance<'_>,
    ) -> Result<CoreInstance, PlanError> {
        self.count()?;
        Ok(match instance {
            Instance::Instantiate { module_index, args } => {
                let arguments = args.iter().map(|arg| {
                    let index = *at(&spaces.core_instances, arg.index, "core instance")?;
                    Ok((arg.name.to_owned(), index))
                });
                CoreInstance::Module {
                    module: *at(&spaces.modules, module_index, "core module")?,
                    arguments: arguments.collect::<Result<_, PlanError>>()?,
                }
            }
            Instance::FromExports(exports) => CoreInstance::Items(
                exports
                    .iter()
                    .map(|export| {
                        let item = spaces.core_item(export.kind, export.index)?;
                        Ok((export.name.to_owned(), item.clone()))
                    })
                    .collect::<Result<_, PlanError>>()?,
            ),
        })
    }

    fn instance(
        &mut self,
        spaces: &Spaces,
        instance: ComponentInstance<'_>,
        depth: usize,
    ) -> Result<InstanceItem, PlanError> {
        self.count()?;
        Ok(InstanceItem::Of(match instance {
            ComponentInstance::Instantiate { component_index, args } => {
                let mut given = Items::new();
                for arg in &args {
                    given.insert(arg.name.to_owned(), spaces.item(arg.kind, arg.index)?);
                }
                let range = at(&spaces.components, component_index, "component")?.clone();
                self.component(range, Some(&given), depth + 1)?
            }
            ComponentInstance::FromExports(exports) => exports
                .iter()
                .map(|export| {
                    let item = spaces.item(export.kind, export.index)?;
                    Ok((export.name.name.to_owned(), item))
                })
                .collect::<Result<_, PlanError>>()?,
        }))
    }
}

impl Spaces {
    fn core_item(&self, kind: ExternalKind, index: u32) -> Result<&CoreItem, PlanError> {
        match kind {
            ExternalKind::Func | ExternalKind::FuncExact => {
                at(&self.core_funcs, index, "core function")
            }
            ExternalKind::Memory => at(&self.core_memories, index, "core memory"),
            ExternalKind::Table => at(&self.core_tables, index, "core table"),
            ExternalKind::Global => at(&self.core_globals, index, "core global"),
            ExternalKind::Tag => at(&self.core_tags, index, "core tag"),
        }
    }

    fn item(&self, kind: ComponentExternalKind, index: u32) -> Result<Item, PlanError> {
        Ok(match kind {
            ComponentExternalKind::Module => {
                Item::Module(*at(&self.modules, index, "core module")?)
            }
            ComponentExternalKind::Func => Item::Func(at(&self.funcs, index, "function")?.clone()),
            ComponentExternalKind::Type => Item::Type(at(&self.types, index, "type")?.clone()),
            ComponentExternalKind::Instance => {
                Item::Instance(at(&self.instances, index, "instance")?.clone())
            }
            ComponentExternalKind::Component => {
                Item::Component(at(&self.components, index, "component")?.clone())
            }
            ComponentExternalKind::Value => return Err(PlanError::Unsupported("values")),
        })
    }

    /// Add an item to its index space.
    fn define(&mut self, kind: ComponentExternalKind, item: Item) -> Result<(), PlanError> {
        match (kind, item) {
            (ComponentExternalKind::Module, Item::Module(module)) => self.modules.push(module),
            (ComponentExternalKind::Func, Item::Func(func)) => self.funcs.push(func),
            (ComponentExternalKind::Type, Item::Type(made)) => self.types.push(made),
            (ComponentExternalKind::Instance, Item::Instance(instance)) => {
                self.instances.push(instance);
            }
            (ComponentExternalKind::Component, Item::Component(range)) => {
                self.components.push(range);
            }
            (kind, _) => {
                return Err(PlanError::Invalid(format!("an argument is no {}", kind.desc())));
            }
        }
        Ok(())
    }

    fn alias(&mut self, alias: ComponentAlias<'_>) -> Result<(), PlanError> {
        match alias {
            ComponentAlias::InstanceExport { kind, instance_index, name } => {
                let item = match at(&self.instances, instance_index, "instance")? {
                    InstanceItem::Of(items) => items.get(name).cloned().ok_or_else(|| {
                        PlanError::Invalid(format!("an instance does not export {name:?}"))
                    })?,
                    InstanceItem::Imported(interface) => {
                        let (interface, name) = (interface.clone(), name.to_owned());
                        match kind {
                            ComponentExternalKind::Func => {
                                Item::Func(Func::Imported { interface, name })
                            }
                            // Whether it is a resource shows when it is used as one.
                            ComponentExternalKind::Type => {
                                Item::Type(Type::Resource(Resource::Imported { interface, name }))
                            }
                            _ => return Err(PlanError::Unsupported("interfaces in interfaces")),
                        }
                    }
                };
                self.define(kind, item)
            }
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => {
                let instance = *at(&self.core_instances, instance_index, "core instance")?;
                let item = CoreItem::Export { instance, name: name.to_owned() };
                match kind {
                    ExternalKind::Func | ExternalKind::FuncExact => self.core_funcs.push(item),
                    ExternalKind::Memory => self.core_memories.push(item),
                    ExternalKind::Table => self.core_tables.push(item),
                    ExternalKind::Global => self.core_globals.push(item),
                    ExternalKind::Tag => self.core_tags.push(item),
                }
                Ok(())
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } => {
                // Nested components are given the resources that they manage.
                self.types.push(Type::Other);
                Ok(())
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreType, .. } => Ok(()),
            ComponentAlias::Outer { .. } => {
                Err(PlanError::Unsupported("modules and components of an outer component"))
            }
        }
    }

    fn resource(&self, index: u32) -> Result<Resource, PlanError> {
        match at(&self.types, index, "type")? {
            Type::Resource(resource) => Ok(resource.clone()),
            Type::Other => Err(PlanError::Invalid(format!("type {index} is no resource"))),
        }
    }

    fn canonical(&mut self, function: CanonicalFunction) -> Result<(), PlanError> {
        match function {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                let options = self.options(&options)?;
                self.funcs.push(Func::Lifted(Box::new(Lifted {
                    core: at(&self.core_funcs, core_func_index, "core function")?.clone(),
                    memory: options.memory,
                    realloc: options.realloc,
                    post_return: options.post_return,
                })));
            }
            CanonicalFunction::Lower { func_index, options } => {
                let options = self.options(&options)?;
                let Func::Imported { interface, name } = at(&self.funcs, func_index, "function")?
                else {
                    return Err(PlanError::Unsupported("calls from component to component"));
                };
                self.core_funcs.push(CoreItem::Lowered(Box::new(Lowered {
                    interface: interface.clone(),
                    function: name.clone(),
                    memory: options.memory,
                    realloc: options.realloc,
                })));
            }
            CanonicalFunction::ResourceNew { resource } => {
                self.core_funcs.push(CoreItem::Handle(HandleOp::New, self.resource(resource)?));
            }
            CanonicalFunction::ResourceDrop { resource } => {
                self.core_funcs.push(CoreItem::Handle(HandleOp::Drop, self.resource(resource)?));
            }
            CanonicalFunction::ResourceRep { resource } => {
                self.core_funcs.push(CoreItem::Handle(HandleOp::Rep, self.resource(resource)?));
            }
            _ => return Err(PlanError::Unsupported("async, streams or threads")),
        }
        Ok(())
    }

    fn options(&self, options: &[CanonicalOption]) -> Result<Options, PlanError> {
        let mut found = Options::default();
        for option in options {
            match *option {
                CanonicalOption::UTF8 => {}
                CanonicalOption::Memory(index) => {
                    found.memory = Some(at(&self.core_memories, index, "core memory")?.clone());
                }
                CanonicalOption::Realloc(index) => {
                    found.realloc = Some(at(&self.core_funcs, index, "core function")?.clone());
                }
                CanonicalOption::PostReturn(index) => {
                    found.post_return = Some(at(&self.core_funcs, index, "core function")?.clone());
                }
                _ => return Err(PlanError::Unsupported("UTF-16, async or garbage collection")),
            }
        }
        Ok(found)
    }
}

#[derive(Default)]
struct Options {
    memory: Option<CoreItem>,
    realloc: Option<CoreItem>,
    post_return: Option<CoreItem>,
}

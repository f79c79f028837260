//! Components in a page: our own linker and canonical ABI over the browser's
//! WebAssembly, for the contract's fixed worlds.
//!
//! Nothing is generated and nothing is evaluated as JavaScript, so a page needs
//! no more of its content security policy than `wasm-unsafe-eval`. The
//! alternative, transpiling with jco in the page, takes 936 KB of download and
//! half a second more, and its output cannot run under a strict policy.

pub mod abi;
pub mod contract;
pub mod host;
#[cfg(target_family = "wasm")]
pub mod instance;
mod limit;
pub mod plan;
#[cfg(test)]
mod tests;

use contract::{COMPONENT, Export, INFERENCE, LOG, TENSORS, TYPES};
use plan::{Plan, PlanError};

/// A world of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    Preprocess,
    Model,
    Postprocess,
    Monitor,
}

/// Why a component is not one of a world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// Not read.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another version of the contract.
    #[error("it is made for {found}, and this runtime speaks headland:pipeline@0.1.0")]
    WrongVersion {
        /// The interface.
        found: String,
    },
    /// It lacks what its world exports.
    #[error("it is no {world:?} component: it does not export {missing}")]
    WrongWorld {
        /// The world.
        world: World,
        /// What it lacks.
        missing: String,
    },
    /// It imports what its world does not have.
    #[error("it imports {import}, which a {world:?} component is not granted")]
    NotGranted {
        /// The world.
        world: World,
        /// The interface.
        import: String,
    },
}

impl World {
    /// What the host calls.
    fn exports(self) -> &'static [Export] {
        use contract::{
            CONFIGURE, EVALUATE, INFER, POSTPROCESS, PREPROCESS, SESSION_CLOSE_WINDOW,
            SESSION_OBSERVE, SESSION_OPEN,
        };
        match self {
            Self::Preprocess => &[CONFIGURE, PREPROCESS],
            Self::Model => &[CONFIGURE, INFER],
            Self::Postprocess => &[CONFIGURE, POSTPROCESS],
            Self::Monitor => &[SESSION_OPEN, SESSION_OBSERVE, SESSION_CLOSE_WINDOW, EVALUATE],
        }
    }

    fn imports(self, interface: &str) -> bool {
        match interface {
            LOG | TYPES => true,
            TENSORS => self != Self::Monitor,
            INFERENCE => self == Self::Model,
            _ => false,
        }
    }

    /// Read a component that is to be of this world.
    ///
    /// # Errors
    /// [`WorldError`].
    pub fn read(self, component: &[u8]) -> Result<Plan, WorldError> {
        let plan = Plan::read(component)?;
        for name in plan.imports.iter().chain(plan.exports.keys()) {
            if name.starts_with("headland:pipeline/") && !name.ends_with("@0.1.0") {
                return Err(WorldError::WrongVersion { found: name.clone() });
            }
        }
        let has = |interface: &str, function: &str| {
            plan.exports.get(interface).is_some_and(|f| f.contains_key(function))
        };
        for export in self.exports() {
            if !has(export.interface, export.function) {
                let missing = format!("{} {}", export.interface, export.function);
                return Err(WorldError::WrongWorld { world: self, missing });
            }
        }
        if !plan.exports.contains_key(COMPONENT) {
            let missing = COMPONENT.to_owned();
            return Err(WorldError::WrongWorld { world: self, missing });
        }
        match plan.imports.iter().find(|name| !self.imports(name)) {
            Some(import) => Err(WorldError::NotGranted { world: self, import: import.clone() }),
            None => Ok(plan),
        }
    }
}

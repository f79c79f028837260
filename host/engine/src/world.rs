//! Worlds of the contract, and whether a component implements one.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, types::ComponentItem};

/// The version of the contract that this host speaks.
pub const CONTRACT: &str = "headland:pipeline@0.1.0";

/// A world of `wit/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// Payloads to tensors.
    Preprocess,
    /// Tensors to tensors, through a model.
    Model,
    /// Tensors to a prediction.
    Postprocess,
    /// Watches rows.
    Monitor,
    /// Explains predictions.
    Explainer,
}

/// Why a component cannot take its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// It implements no or another world.
    #[error("it does not export {missing}, so it is no {world} component{}", match found {
        Some(f) => format!("; it looks like a {f} component"),
        None => String::new(),
    })]
    WrongWorld {
        /// The world it should have.
        world: World,
        /// The first export that it lacks.
        missing: String,
        /// The world that it does implement.
        found: Option<World>,
    },
    /// It was built for another version of the contract.
    #[error("it was built for {found}, this host speaks {CONTRACT}")]
    WrongVersion {
        /// The interface with the version that it has.
        found: String,
    },
    /// It imports something that its world and grants do not give it.
    #[error("it imports {import}, which a {world} component is not granted")]
    NotGranted {
        /// The world.
        world: World,
        /// The import.
        import: String,
    },
}

impl World {
    const ALL: [Self; 5] =
        [Self::Preprocess, Self::Model, Self::Postprocess, Self::Monitor, Self::Explainer];

    /// The interface that makes a component one of this world.
    pub(crate) const fn interface(self) -> &'static str {
        match self {
            Self::Preprocess => "headland:pipeline/preprocessor@0.1.0",
            Self::Model => "headland:pipeline/predictor@0.1.0",
            Self::Postprocess => "headland:pipeline/postprocessor@0.1.0",
            Self::Monitor => "headland:pipeline/monitoring@0.1.0",
            Self::Explainer => "headland:pipeline/attributor@0.1.0",
        }
    }

    pub(crate) const fn has_tensors(self) -> bool {
        !matches!(self, Self::Monitor)
    }

    pub(crate) const fn has_inference(self) -> bool {
        matches!(self, Self::Model | Self::Explainer)
    }

    fn imports(self, name: &str) -> bool {
        match name {
            "headland:pipeline/log@0.1.0" | "headland:pipeline/types@0.1.0" => true,
            "headland:pipeline/tensors@0.1.0" => self.has_tensors(),
            "headland:pipeline/inference@0.1.0" => self.has_inference(),
            _ => false,
        }
    }

    /// The world that `component` implements, if any.
    pub(crate) fn of(component: &Component) -> Option<Self> {
        Self::ALL.into_iter().find(|w| w.missing(component).is_none())
    }

    fn missing(self, component: &Component) -> Option<&'static str> {
        let mut needed = vec!["headland:pipeline/component@0.1.0"];
        if self != Self::Monitor {
            needed.push("headland:pipeline/configurable@0.1.0");
        }
        needed.push(self.interface());
        needed.into_iter().find(|n| component.get_export_index(None, n).is_none())
    }

    /// Check that `component` implements this world and asks for no more.
    pub(crate) fn check(self, component: &Component, wasi: bool) -> Result<(), WorldError> {
        let ty = component.component_type();
        let engine = component.engine();
        let names = ty.imports(engine).map(|(n, _)| n).chain(
            ty.exports(engine)
                .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
                .map(|(n, _)| n),
        );
        for name in names {
            if name.starts_with("headland:pipeline/") && !name.ends_with("@0.1.0") {
                return Err(WorldError::WrongVersion { found: name.to_owned() });
            }
        }
        if let Some(missing) = self.missing(component) {
            return Err(WorldError::WrongWorld {
                world: self,
                missing: missing.to_owned(),
                found: Self::of(component),
            });
        }
        for (name, _) in ty.imports(engine) {
            let granted = self.imports(name) || wasi && name.starts_with("wasi:");
            if !granted {
                return Err(WorldError::NotGranted { world: self, import: name.to_owned() });
            }
        }
        Ok(())
    }
}

impl From<headland_pipeline::World> for World {
    fn from(w: headland_pipeline::World) -> Self {
        match w {
            headland_pipeline::World::Preprocess => Self::Preprocess,
            headland_pipeline::World::Model => Self::Model,
            headland_pipeline::World::Postprocess => Self::Postprocess,
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preprocess => "preprocess",
            Self::Model => "model",
            Self::Postprocess => "postprocess",
            Self::Monitor => "monitor",
            Self::Explainer => "explainer",
        })
    }
}

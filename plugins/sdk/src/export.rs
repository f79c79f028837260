//! From a plugin's trait to the exports of one of the contract's worlds.

use std::{cell::RefCell, sync::Once};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{
    Description, Result, StageError, Tensors,
    bindings::imports::headland::pipeline::{log, tensors::NamedTensor},
};

/// Make a component of the package that this stands in, once.
///
/// `export!(Plugin as preprocess)` needs [`Preprocess`](crate::Preprocess)
/// implemented for `Plugin`, `as model` needs [`Model`](crate::Model),
/// `as postprocess` [`Postprocess`](crate::Postprocess), `as monitor`
/// [`Monitor`](crate::Monitor), `as explainer`
/// [`Explainer`](crate::Explainer). The component's name, version and summary
/// are the Cargo package's name, version and description.
///
/// On targets other than wasm32 it only checks that the trait is there.
#[macro_export]
macro_rules! export {
    ($plugin:ty as preprocess) => {
        $crate::__export_stage! { $plugin, Preprocess, preprocessor, {
            fn preprocess(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
            ) -> $crate::Result<Vec<$crate::__private::NamedTensor>> {
                STAGE.with(|s| s.call(inputs, |p, i| $crate::Preprocess::preprocess(p, &frame, i)))
            }
        }}
    };
    ($plugin:ty as model) => {
        $crate::__export_stage! { $plugin, Model, predictor, {
            fn infer(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
            ) -> $crate::Result<Vec<$crate::__private::NamedTensor>> {
                STAGE.with(|s| s.call(inputs, |p, i| $crate::Model::infer(p, &frame, i)))
            }
        }}
    };
    ($plugin:ty as postprocess) => {
        $crate::__export_stage! { $plugin, Postprocess, postprocessor, {
            fn postprocess(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
            ) -> $crate::Result<$crate::Prediction> {
                STAGE.with(|s| s.call(inputs, |p, i| $crate::Postprocess::postprocess(p, &frame, i)))
            }
        }}
    };
    ($plugin:ty as explainer) => {
        $crate::__export_stage! { $plugin, Explainer, attributor, {
            fn explain(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
                prediction: $crate::Prediction,
                max_model_calls: u32,
            ) -> $crate::Result<Vec<$crate::Attribution>> {
                STAGE.with(|s| {
                    s.call(inputs, |p, i| {
                        $crate::Explainer::explain(p, &frame, i, &prediction, max_model_calls)
                    })
                })
            }
        }}
    };
    ($plugin:ty as monitor) => {
        $crate::__export_component! { $plugin, Monitor, {
            use $crate::{
                __private::parse_config,
                bindings::monitoring::{self, exports::headland::pipeline::monitoring as wit},
                monitor::{Batch, Finding, MonitorError},
            };

            struct Session(::std::cell::RefCell<$plugin>);

            impl wit::Guest for Component {
                type Session = Session;

                fn merge(a: Vec<u8>, b: Vec<u8>) -> Result<Vec<u8>, MonitorError> {
                    <$plugin as $crate::Monitor>::merge(&a, &b)
                }

                fn evaluate(
                    config: String,
                    reference: Vec<u8>,
                    summary: Vec<u8>,
                ) -> Result<Vec<Finding>, MonitorError> {
                    let config = parse_config(&config).map_err(MonitorError::BadConfig)?;
                    <$plugin as $crate::Monitor>::evaluate(config, &reference, &summary)
                }
            }

            impl wit::GuestSession for Session {
                fn open(config: String, reference: Vec<u8>) -> Result<wit::Session, MonitorError> {
                    let config = parse_config(&config).map_err(MonitorError::BadConfig)?;
                    let monitor = <$plugin as $crate::Monitor>::open(config, &reference)?;
                    Ok(wit::Session::new(Session(monitor.into())))
                }

                fn restore(
                    config: String,
                    reference: Vec<u8>,
                    checkpoint: Vec<u8>,
                ) -> Result<wit::Session, MonitorError> {
                    let config = parse_config(&config).map_err(MonitorError::BadConfig)?;
                    let monitor =
                        <$plugin as $crate::Monitor>::restore(config, &reference, &checkpoint)?;
                    Ok(wit::Session::new(Session(monitor.into())))
                }

                fn observe(&self, batch: Batch) -> Result<Vec<Finding>, MonitorError> {
                    $crate::Monitor::observe(&mut *self.0.borrow_mut(), &batch)
                }

                fn checkpoint(&self) -> Vec<u8> {
                    $crate::Monitor::checkpoint(&*self.0.borrow())
                }

                fn close_window(&self) -> Vec<u8> {
                    $crate::Monitor::close_window(&mut *self.0.borrow_mut())
                }
            }

            monitoring::export!(Component with_types_in $crate::bindings::monitoring);
        }}
    };
}

/// A component that is configured once: everything but a monitor.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_stage {
    ($plugin:ty, $trait:ident, $interface:ident, { $function:item }) => {
        $crate::__export_component! { $plugin, $trait, {
            use $crate::bindings::{configurable, $interface};

            ::std::thread_local! {
                static STAGE: $crate::__private::Slot<$plugin> =
                    const { $crate::__private::Slot::new() };
            }

            impl configurable::exports::headland::pipeline::configurable::Guest for Component {
                fn configure(config: String) -> $crate::Result<()> {
                    STAGE.with(|s| s.configure(&config, <$plugin as $crate::$trait>::new))
                }
            }

            impl $interface::exports::headland::pipeline::$interface::Guest for Component {
                $function
            }

            configurable::export!(Component with_types_in $crate::bindings::configurable);
            $interface::export!(Component with_types_in $crate::bindings::$interface);
        }}
    };
}

/// What every component exports, with `$exports` beside it.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_component {
    ($plugin:ty, $trait:ident, { $($exports:tt)* }) => {
        const _: () = {
            const fn implements<T: $crate::$trait>() {}
            implements::<$plugin>();
        };

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::bindings::component::exports::headland::pipeline::component::Guest
                for Component
            {
                fn describe() -> $crate::Description {
                    $crate::__private::describe::<<$plugin as $crate::$trait>::Config>(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                        env!("CARGO_PKG_DESCRIPTION"),
                    )
                }
            }

            $crate::bindings::component::export!(
                Component with_types_in $crate::bindings::component
            );
            $($exports)*
        };
    };
}

/// A stage between `configure` and its calls.
pub struct Slot<P>(RefCell<Option<P>>);

impl<P> Slot<P> {
    /// Not configured yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Make the stage.
    pub fn configure<C: DeserializeOwned>(
        &self,
        config: &str,
        new: impl FnOnce(C) -> Result<P>,
    ) -> Result<()> {
        let config = parse_config(config).map_err(StageError::BadConfig)?;
        *self.0.borrow_mut() = Some(new(config)?);
        Ok(())
    }

    /// Call the stage and lower what it gives.
    pub fn call<T: Into<U>, U>(
        &self,
        inputs: Vec<NamedTensor>,
        call: impl FnOnce(&mut P, Tensors) -> Result<T>,
    ) -> Result<U> {
        match self.0.borrow_mut().as_mut() {
            Some(stage) => call(stage, Tensors(inputs)).map(Into::into),
            None => Err(StageError::failed("called before `configure`")),
        }
    }
}

/// What a component says of itself.
pub fn describe<C: JsonSchema>(name: &str, version: &str, summary: &str) -> Description {
    Description {
        name: name.to_owned(),
        version: version.to_owned(),
        summary: summary.to_owned(),
        config_schema: schemars::schema_for!(C).as_value().to_string(),
    }
}

/// The configuration, or what is wrong with it and where.
pub fn parse_config<C: DeserializeOwned>(config: &str) -> std::result::Result<C, String> {
    report_panics();
    serde_json::from_str(config).map_err(|e| e.to_string())
}

/// Tell the host where a bug is before the trap that it ends in.
fn report_panics() {
    static ONCE: Once = Once::new();
    if cfg!(target_arch = "wasm32") {
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|p| log::write(log::Level::Error, &p.to_string())));
        });
    }
}

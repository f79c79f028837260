//! From a plugin's trait to the exports of one of the contract's worlds.

use std::{cell::RefCell, sync::Once};

use serde::de::DeserializeOwned;

use crate::{
    Result, StageError, Tensors,
    bindings::imports::headland::pipeline::{log, tensors::NamedTensor},
    json,
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
/// # The configuration's schema
///
/// It is made from the plugin's `Config` when the host asks for it, by code
/// that takes 95 kB of the component. Where that is too much, as in a monitor
/// for a small device, it can be a file beside `Cargo.toml`:
/// `export!(Plugin as monitor, schema = "config.schema.json")`. The component
/// then holds the file's text, and the package gets a test,
/// `config_schema_is_up_to_date`, that fails when the file is not what
/// `Config` makes. `UPDATE_SCHEMA=1 cargo test config_schema` writes it.
///
/// On targets other than wasm32 it only checks that the trait is there.
#[macro_export]
macro_rules! export {
    ($plugin:ty as preprocess $(, schema = $schema:literal)?) => {
        $crate::__export_stage! { $plugin, Preprocess, [$($schema)?], preprocessor, {
            fn preprocess(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
            ) -> $crate::Result<Vec<$crate::__private::NamedTensor>> {
                STAGE.with(|s| s.call(inputs, |p, i| $crate::Preprocess::preprocess(p, &frame, i)))
            }
        }}
    };
    ($plugin:ty as model $(, schema = $schema:literal)?) => {
        $crate::__export_stage! { $plugin, Model, [$($schema)?], predictor, {
            fn infer(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
            ) -> $crate::Result<Vec<$crate::__private::NamedTensor>> {
                STAGE.with(|s| s.call(inputs, |p, i| $crate::Model::infer(p, &frame, i)))
            }
        }}
    };
    ($plugin:ty as postprocess $(, schema = $schema:literal)?) => {
        $crate::__export_stage! { $plugin, Postprocess, [$($schema)?], postprocessor, {
            fn postprocess(
                frame: $crate::Frame,
                inputs: Vec<$crate::__private::NamedTensor>,
            ) -> $crate::Result<$crate::Prediction> {
                STAGE.with(|s| s.call(inputs, |p, i| $crate::Postprocess::postprocess(p, &frame, i)))
            }
        }}
    };
    ($plugin:ty as explainer $(, schema = $schema:literal)?) => {
        $crate::__export_stage! { $plugin, Explainer, [$($schema)?], attributor, {
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
    ($plugin:ty as monitor $(, schema = $schema:literal)?) => {
        $crate::__export_component! { $plugin, Monitor, [$($schema)?], {
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
    ($plugin:ty, $trait:ident, [$($schema:literal)?], $interface:ident, { $function:item }) => {
        $crate::__export_component! { $plugin, $trait, [$($schema)?], {
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
    ($plugin:ty, $trait:ident, [$($schema:literal)?], { $($exports:tt)* }) => {
        const _: () = {
            const fn implements<T: $crate::$trait>() {}
            implements::<$plugin>();
        };

        $(
            #[cfg(all(test, not(target_arch = "wasm32")))]
            #[test]
            fn config_schema_is_up_to_date() -> ::std::result::Result<(), ::std::string::String> {
                $crate::schema::check::<<$plugin as $crate::$trait>::Config>(
                    concat!(env!("CARGO_MANIFEST_DIR"), "/", $schema),
                )
            }
        )?

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::bindings::component::exports::headland::pipeline::component::Guest
                for Component
            {
                fn describe() -> $crate::Description {
                    $crate::Description {
                        name: env!("CARGO_PKG_NAME").to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        summary: env!("CARGO_PKG_DESCRIPTION").to_owned(),
                        config_schema: $crate::__config_schema!(
                            <$plugin as $crate::$trait>::Config $(, $schema)?
                        ),
                    }
                }
            }

            $crate::bindings::component::export!(
                Component with_types_in $crate::bindings::component
            );
            $($exports)*
        };
    };
}

/// The text of a configuration's schema: of the file, or else as derived.
#[doc(hidden)]
#[macro_export]
macro_rules! __config_schema {
    ($config:ty, $file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $file)).to_owned()
    };
    ($config:ty) => {
        $crate::schema::derive::<$config>()
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

/// The configuration, or what is wrong with it and where.
pub fn parse_config<C: DeserializeOwned>(config: &str) -> std::result::Result<C, String> {
    report_panics();
    json::from_str(config).map_err(|e| e.to_string())
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

//! What wit-bindgen makes of the contract in `wit/`.
//!
//! Everything that a component imports is generated once, in [`imports`], so
//! that a tensor is one Rust type whatever a component exports. Exports are
//! generated interface by interface, and [`export!`](crate::export) puts them
//! together into one of the contract's worlds: wit-bindgen names the macro
//! that exports an interface after the interface alone, so that two worlds
//! which both export `component` cannot be generated in one crate.
#![allow(missing_docs)]

pub mod imports {
    wit_bindgen::generate!({
        inline: "
            package headland:sdk-imports;
            world imports {
                import headland:pipeline/types@0.1.0;
                import headland:pipeline/tensors@0.1.0;
                import headland:pipeline/inference@0.1.0;
                import headland:pipeline/log@0.1.0;
            }
        ",
        path: "../../wit",
        generate_all,
        generate_unused_types: true,
        additional_type_attributes: {
            "headland:pipeline/types@0.1.0/frame": [#[derive(PartialEq, Default)]],
            "headland:pipeline/types@0.1.0/stage-error": [#[derive(PartialEq)]],
            "headland:pipeline/types@0.1.0/class-score": [#[derive(PartialEq)]],
            "headland:pipeline/types@0.1.0/detection": [#[derive(PartialEq)]],
            "headland:pipeline/types@0.1.0/named-value": [#[derive(PartialEq)]],
            "headland:pipeline/types@0.1.0/prediction": [#[derive(PartialEq, Default)]],
        },
    });
}

/// One exported interface, over the types of [`imports`].
macro_rules! exported {
    ($module:ident: $world:literal, $($with:tt)*) => {
        pub mod $module {
            wit_bindgen::generate!({
                inline: $world,
                path: "../../wit",
                generate_all,
                pub_export_macro: true,
                with: { $($with)* },
            });
        }
    };
}

exported! { component: "
    package headland:sdk-component;
    world component { export headland:pipeline/component@0.1.0; }",
    "headland:pipeline/types@0.1.0": crate::bindings::imports::headland::pipeline::types,
}

exported! { configurable: "
    package headland:sdk-configurable;
    world configurable { export headland:pipeline/configurable@0.1.0; }",
    "headland:pipeline/types@0.1.0": crate::bindings::imports::headland::pipeline::types,
}

exported! { preprocessor: "
    package headland:sdk-preprocessor;
    world preprocessor { export headland:pipeline/preprocessor@0.1.0; }",
    "headland:pipeline/types@0.1.0": crate::bindings::imports::headland::pipeline::types,
    "headland:pipeline/tensors@0.1.0": crate::bindings::imports::headland::pipeline::tensors,
}

exported! { predictor: "
    package headland:sdk-predictor;
    world predictor { export headland:pipeline/predictor@0.1.0; }",
    "headland:pipeline/types@0.1.0": crate::bindings::imports::headland::pipeline::types,
    "headland:pipeline/tensors@0.1.0": crate::bindings::imports::headland::pipeline::tensors,
}

exported! { postprocessor: "
    package headland:sdk-postprocessor;
    world postprocessor { export headland:pipeline/postprocessor@0.1.0; }",
    "headland:pipeline/types@0.1.0": crate::bindings::imports::headland::pipeline::types,
    "headland:pipeline/tensors@0.1.0": crate::bindings::imports::headland::pipeline::tensors,
}

exported! { attributor: "
    package headland:sdk-attributor;
    world attributor { export headland:pipeline/attributor@0.1.0; }",
    "headland:pipeline/types@0.1.0": crate::bindings::imports::headland::pipeline::types,
    "headland:pipeline/tensors@0.1.0": crate::bindings::imports::headland::pipeline::tensors,
}

exported! { monitoring: "
    package headland:sdk-monitoring;
    world monitoring { export headland:pipeline/monitoring@0.1.0; }",
}

//! The contract's functions, with the types of what they take and give.
//!
//! `tests/contract.rs` holds them against `wit/`.

use super::abi::Type;

/// What a function takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    pub params: &'static [Type],
    pub result: Option<Type>,
}

const fn signature(params: &'static [Type], result: Type) -> Signature {
    Signature { params, result: Some(result) }
}

const STRING: Type = Type::String;
const BYTES: Type = Type::List(&Type::U8);
const SHAPE: Type = Type::List(&Type::U32);

/// `option<T>`: nothing, or something.
macro_rules! option {
    ($some:expr) => {
        Type::Variant(&[None, Some($some)])
    };
}

/// `result<T, E>`: ok, or an error.
macro_rules! result {
    (_, $error:expr) => {
        Type::Variant(&[None, Some($error)])
    };
    ($ok:expr, $error:expr) => {
        Type::Variant(&[Some($ok), Some($error)])
    };
}

/// An `enum` of so many cases.
macro_rules! cases {
    ($count:literal) => {
        Type::Variant(&[None; $count])
    };
}

const DTYPE: Type = cases!(13);
const LEVEL: Type = cases!(4);
const SEVERITY: Type = cases!(3);
const NAMED_TENSORS: Type = Type::List(&Type::Record(&[STRING, Type::Handle]));

const TENSOR_ERROR: Type = Type::Variant(&[
    Some(Type::Record(&[Type::U64, Type::U64])),
    Some(STRING),
    Some(STRING),
    Some(STRING),
    Some(STRING),
]);
const INFERENCE_ERROR: Type = Type::Variant(&[
    Some(STRING),
    Some(STRING),
    Some(STRING),
    Some(STRING),
    Some(STRING),
    Some(STRING),
    None,
    Some(STRING),
]);
const STAGE_ERROR: Type = Type::Variant(&[Some(STRING); 4]);
const MONITOR_ERROR: Type = Type::Variant(&[Some(STRING); 5]);

const DIMENSION: Type = Type::Variant(&[Some(Type::U32), Some(STRING)]);
const TENSOR_INFOS: Type = Type::List(&Type::Record(&[STRING, DTYPE, Type::List(&DIMENSION)]));
const STATE_BINDINGS: Type = Type::List(&Type::Record(&[STRING, STRING, Type::Handle]));

const FRAME: Type = Type::Record(&[Type::U64, Type::U64, STRING]);
const CLASS_SCORE: Type = Type::Record(&[Type::U32, STRING, Type::F32]);
const DETECTION: Type = Type::Record(&[Type::F32, Type::F32, Type::F32, Type::F32, CLASS_SCORE]);
const PREDICTION: Type = Type::Record(&[
    Type::List(&CLASS_SCORE),
    Type::List(&DETECTION),
    Type::List(&Type::Record(&[STRING, Type::F64])),
    option!(Type::Bool),
]);

const COLUMN_VALUES: Type =
    Type::Variant(&[Some(Type::List(&Type::F64)), Some(Type::List(&option!(STRING)))]);
const BATCH: Type = Type::Record(&[
    Type::List(&Type::U64),
    Type::List(&Type::U64),
    Type::List(&Type::Record(&[STRING, COLUMN_VALUES])),
]);
const FINDING: Type = Type::Record(&[
    STRING,
    option!(STRING),
    SEVERITY,
    STRING,
    Type::F64,
    Type::F64,
    Type::U64,
    STRING,
]);
const FINDINGS: Type = result!(Type::List(&FINDING), MONITOR_ERROR);

/// A function that the host gives to components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Import {
    TensorCreate,
    TensorDtype,
    TensorShape,
    TensorLenBytes,
    TensorRead,
    TensorReadRange,
    TensorClone,
    TensorReshape,
    ModelOpen,
    ModelInputs,
    ModelOutputs,
    ModelBatchHint,
    ModelRun,
    ModelOpenSession,
    SessionRun,
    SessionReset,
    Log,
}

pub const TENSORS: &str = "headland:pipeline/tensors@0.1.0";
pub const INFERENCE: &str = "headland:pipeline/inference@0.1.0";
pub const LOG: &str = "headland:pipeline/log@0.1.0";
pub const TYPES: &str = "headland:pipeline/types@0.1.0";
pub const COMPONENT: &str = "headland:pipeline/component@0.1.0";
pub const CONFIGURABLE: &str = "headland:pipeline/configurable@0.1.0";
pub const MONITORING: &str = "headland:pipeline/monitoring@0.1.0";

/// Every function that the host gives, by interface and name.
pub const IMPORTS: [(&str, &str, Import, Signature); 17] = [
    (
        TENSORS,
        "[static]tensor.create",
        Import::TensorCreate,
        signature(&[DTYPE, SHAPE, BYTES], result!(Type::Handle, TENSOR_ERROR)),
    ),
    (TENSORS, "[method]tensor.dtype", Import::TensorDtype, signature(&[Type::Handle], DTYPE)),
    (TENSORS, "[method]tensor.shape", Import::TensorShape, signature(&[Type::Handle], SHAPE)),
    (
        TENSORS,
        "[method]tensor.len-bytes",
        Import::TensorLenBytes,
        signature(&[Type::Handle], Type::U64),
    ),
    (
        TENSORS,
        "[method]tensor.read",
        Import::TensorRead,
        signature(&[Type::Handle], result!(BYTES, TENSOR_ERROR)),
    ),
    (
        TENSORS,
        "[method]tensor.read-range",
        Import::TensorReadRange,
        signature(&[Type::Handle, Type::U64, Type::U64], result!(BYTES, TENSOR_ERROR)),
    ),
    (
        TENSORS,
        "[method]tensor.clone",
        Import::TensorClone,
        signature(&[Type::Handle], Type::Handle),
    ),
    (
        TENSORS,
        "[method]tensor.reshape",
        Import::TensorReshape,
        signature(&[Type::Handle, SHAPE], result!(Type::Handle, TENSOR_ERROR)),
    ),
    (
        INFERENCE,
        "[static]model.open",
        Import::ModelOpen,
        signature(&[STRING], result!(Type::Handle, INFERENCE_ERROR)),
    ),
    (
        INFERENCE,
        "[method]model.inputs",
        Import::ModelInputs,
        signature(&[Type::Handle], TENSOR_INFOS),
    ),
    (
        INFERENCE,
        "[method]model.outputs",
        Import::ModelOutputs,
        signature(&[Type::Handle], TENSOR_INFOS),
    ),
    (
        INFERENCE,
        "[method]model.batch-hint",
        Import::ModelBatchHint,
        signature(&[Type::Handle], option!(Type::U32)),
    ),
    (
        INFERENCE,
        "[method]model.run",
        Import::ModelRun,
        signature(&[Type::Handle, NAMED_TENSORS], result!(NAMED_TENSORS, INFERENCE_ERROR)),
    ),
    (
        INFERENCE,
        "[method]model.open-session",
        Import::ModelOpenSession,
        signature(&[Type::Handle, STATE_BINDINGS], result!(Type::Handle, INFERENCE_ERROR)),
    ),
    (
        INFERENCE,
        "[method]session.run",
        Import::SessionRun,
        signature(&[Type::Handle, NAMED_TENSORS], result!(NAMED_TENSORS, INFERENCE_ERROR)),
    ),
    (
        INFERENCE,
        "[method]session.reset",
        Import::SessionReset,
        Signature { params: &[Type::Handle], result: None },
    ),
    (LOG, "write", Import::Log, Signature { params: &[LEVEL, STRING], result: None }),
];

/// A function of a component that the host calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    pub interface: &'static str,
    pub function: &'static str,
    pub signature: Signature,
}

/// `configurable.configure`
pub const CONFIGURE: Export = Export {
    interface: CONFIGURABLE,
    function: "configure",
    signature: signature(&[STRING], result!(_, STAGE_ERROR)),
};

const TENSOR_STAGE: Signature =
    signature(&[FRAME, NAMED_TENSORS], result!(NAMED_TENSORS, STAGE_ERROR));

/// `preprocessor.preprocess`
pub const PREPROCESS: Export = Export {
    interface: "headland:pipeline/preprocessor@0.1.0",
    function: "preprocess",
    signature: TENSOR_STAGE,
};

/// `predictor.infer`
pub const INFER: Export = Export {
    interface: "headland:pipeline/predictor@0.1.0",
    function: "infer",
    signature: TENSOR_STAGE,
};

/// `postprocessor.postprocess`
pub const POSTPROCESS: Export = Export {
    interface: "headland:pipeline/postprocessor@0.1.0",
    function: "postprocess",
    signature: signature(&[FRAME, NAMED_TENSORS], result!(PREDICTION, STAGE_ERROR)),
};

/// `monitoring.session.open`
pub const SESSION_OPEN: Export = Export {
    interface: MONITORING,
    function: "[static]session.open",
    signature: signature(&[STRING, BYTES], result!(Type::Handle, MONITOR_ERROR)),
};

/// `monitoring.session.observe`
pub const SESSION_OBSERVE: Export = Export {
    interface: MONITORING,
    function: "[method]session.observe",
    signature: signature(&[Type::Handle, BATCH], FINDINGS),
};

/// `monitoring.session.close-window`
pub const SESSION_CLOSE_WINDOW: Export = Export {
    interface: MONITORING,
    function: "[method]session.close-window",
    signature: signature(&[Type::Handle], BYTES),
};

/// `monitoring.evaluate`
pub const EVALUATE: Export = Export {
    interface: MONITORING,
    function: "evaluate",
    signature: signature(&[STRING, BYTES, BYTES], FINDINGS),
};

/// Every function that the host calls, for the test against `wit/`.
#[cfg(test)]
pub const EXPORTS: [Export; 8] = [
    CONFIGURE,
    PREPROCESS,
    INFER,
    POSTPROCESS,
    SESSION_OPEN,
    SESSION_OBSERVE,
    SESSION_CLOSE_WINDOW,
    EVALUATE,
];

//! `headland:pipeline/tensors`.
//!
//! Defined by hand rather than through the generated trait: bytes then cross
//! with exactly one copy each way (a view of guest memory on the way in, the
//! tensor's own shared buffer on the way out).

use std::sync::Arc;

use headland_tensor::{DType, Shape, Tensor, TensorError};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType, WasmList},
};

use super::StageState;
use crate::bindings::{tensors as wit, types};

impl types::Host for StageState {}

impl From<wit::Dtype> for DType {
    fn from(d: wit::Dtype) -> Self {
        match d {
            wit::Dtype::Bool => Self::Bool,
            wit::Dtype::U8 => Self::U8,
            wit::Dtype::I8 => Self::I8,
            wit::Dtype::U16 => Self::U16,
            wit::Dtype::I16 => Self::I16,
            wit::Dtype::U32 => Self::U32,
            wit::Dtype::I32 => Self::I32,
            wit::Dtype::U64 => Self::U64,
            wit::Dtype::I64 => Self::I64,
            wit::Dtype::F16 => Self::F16,
            wit::Dtype::Bf16 => Self::BF16,
            wit::Dtype::F32 => Self::F32,
            wit::Dtype::F64 => Self::F64,
        }
    }
}

impl From<DType> for wit::Dtype {
    fn from(d: DType) -> Self {
        match d {
            DType::Bool => Self::Bool,
            DType::U8 => Self::U8,
            DType::I8 => Self::I8,
            DType::U16 => Self::U16,
            DType::I16 => Self::I16,
            DType::U32 => Self::U32,
            DType::I32 => Self::I32,
            DType::U64 => Self::U64,
            DType::I64 => Self::I64,
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            DType::F32 => Self::F32,
            DType::F64 => Self::F64,
        }
    }
}

impl From<TensorError> for wit::TensorError {
    fn from(e: TensorError) -> Self {
        match e {
            TensorError::WrongLength { expected_bytes, actual_bytes, .. } => {
                Self::WrongLength(wit::LengthMismatch {
                    expected_bytes: expected_bytes as u64,
                    actual_bytes: actual_bytes as u64,
                })
            }
            TensorError::BadShape(_) => Self::BadShape(e.to_string()),
            TensorError::BadBool { .. } | TensorError::WrongDType { .. } => {
                Self::BadValue(e.to_string())
            }
            TensorError::OutOfRange { .. } => Self::OutOfRange(e.to_string()),
        }
    }
}

type Store<'a> = StoreContextMut<'a, StageState>;
type Created = Result<Resource<Tensor>, wit::TensorError>;

impl StageState {
    fn keep(&mut self, made: Result<Tensor, wit::TensorError>) -> wasmtime::Result<(Created,)> {
        let affordable = made.and_then(|tensor| match self.afford(&tensor) {
            Ok(()) => Ok(tensor),
            Err(hit) => Err(wit::TensorError::TooLarge(hit.to_string())),
        });
        Ok((match affordable {
            Ok(tensor) => Ok(self.push(tensor)?),
            Err(e) => Err(e),
        },))
    }
}

fn create(
    mut store: Store<'_>,
    (dtype, shape, data): (wit::Dtype, Vec<u32>, WasmList<u8>),
) -> wasmtime::Result<(Created,)> {
    store.data_mut().enter()?;
    let made = (|| {
        let shape = Shape::new(shape)?;
        let dtype = DType::from(dtype);
        let (len, limit) = (data.len() as u64, store.data().limits.hostcall_bytes);
        if len > limit {
            let why = format!("{len} bytes in one call into the host, {limit} allowed");
            return Err(wit::TensorError::TooLarge(why));
        }
        let bytes: Arc<[u8]> = data.as_le_slice(&store).into();
        store.data_mut().copies.out_of_components.add(bytes.len());
        Ok(Tensor::new(dtype, shape, bytes)?)
    })();
    store.data_mut().keep(made)
}

type Bytes = Result<Arc<[u8]>, wit::TensorError>;

fn read(mut store: Store<'_>, (this,): (Resource<Tensor>,)) -> wasmtime::Result<(Bytes,)> {
    let state = store.data_mut();
    state.enter()?;
    let bytes = state.table.get(&this)?.shared_bytes();
    state.copies.into_components.add(bytes.len());
    Ok((Ok(bytes),))
}

fn read_range(
    mut store: Store<'_>,
    (this, offset, len): (Resource<Tensor>, u64, u64),
) -> wasmtime::Result<(Bytes,)> {
    let state = store.data_mut();
    state.enter()?;
    let range: Result<Arc<[u8]>, _> =
        state.table.get(&this)?.byte_range(offset, len).map(Into::into);
    Ok((match range {
        Ok(bytes) => {
            // Twice: gathered in the host, then lowered into the guest.
            state.copies.into_components.add(bytes.len());
            state.copies.into_components.add(bytes.len());
            Ok(bytes)
        }
        Err(e) => Err(e.into()),
    },))
}

fn reshape(
    mut store: Store<'_>,
    (this, shape): (Resource<Tensor>, Vec<u32>),
) -> wasmtime::Result<(Created,)> {
    let state = store.data_mut();
    state.enter()?;
    let tensor = state.table.get(&this)?;
    let made = Shape::new(shape).and_then(|s| tensor.reshape(s)).map_err(Into::into);
    state.keep(made)
}

/// Define the interface.
pub(super) fn add_to_linker(linker: &mut Linker<StageState>) -> wasmtime::Result<()> {
    let mut tensors = linker.instance("headland:pipeline/tensors@0.1.0")?;
    tensors.resource("tensor", ResourceType::host::<Tensor>(), |mut store, rep| {
        store.data_mut().pop(Resource::new_own(rep))?;
        Ok(())
    })?;
    tensors.func_wrap("[static]tensor.create", create)?;
    tensors.func_wrap(
        "[method]tensor.dtype",
        |mut s: Store<'_>, (this,): (Resource<Tensor>,)| {
            s.data_mut().enter()?;
            Ok((wit::Dtype::from(s.data().table.get(&this)?.dtype()),))
        },
    )?;
    tensors.func_wrap(
        "[method]tensor.shape",
        |mut s: Store<'_>, (this,): (Resource<Tensor>,)| {
            s.data_mut().enter()?;
            Ok((s.data().table.get(&this)?.shape().dims().to_vec(),))
        },
    )?;
    tensors.func_wrap(
        "[method]tensor.len-bytes",
        |mut s: Store<'_>, (this,): (Resource<Tensor>,)| {
            s.data_mut().enter()?;
            Ok((s.data().table.get(&this)?.bytes().len() as u64,))
        },
    )?;
    tensors.func_wrap("[method]tensor.read", read)?;
    tensors.func_wrap("[method]tensor.read-range", read_range)?;
    tensors.func_wrap(
        "[method]tensor.clone",
        |mut s: Store<'_>, (this,): (Resource<Tensor>,)| {
            let state = s.data_mut();
            state.enter()?;
            let tensor = state.table.get(&this)?.clone();
            Ok((state.push(tensor)?,))
        },
    )?;
    tensors.func_wrap("[method]tensor.reshape", reshape)
}

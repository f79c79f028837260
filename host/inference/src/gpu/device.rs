//! A device that burn computes on, and tensors that live there.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc};

use burn_backend::{
    Backend, BoolDType, DType as BurnType, FloatDType, IntDType, Shape, TensorData, TensorMetadata,
    get_or_init_device_settings,
    ops::{BoolTensorOps, FloatTensorOps, IntTensorOps},
    try_read_sync,
};
use burn_dispatch::{
    Dispatch, DispatchDevice, DispatchTensor,
    devices::{FlexDevice, WgpuBackend, WgpuDevice, WgpuDeviceKind, wgpu as burn_wgpu},
};
use half::f16;
use headland_tensor::DType;
use serde::Serialize;

use crate::{
    InferenceError,
    interpreter::{OpError, OpResult, check_rank, panic_message},
    value::{Array, Element, Lanes},
};

/// Where a model runs: a GPU, or burn's own CPU backend, with which the same
/// executor is tested where there is no GPU.
#[derive(Debug, Clone)]
pub struct Device {
    pub(super) handle: DispatchDevice,
    name: String,
    bools: BoolDType,
    has_f16: bool,
    /// wgpu's own device, where this process opened it.
    wgpu: Option<burn_wgpu::wgpu::Device>,
}

/// An adapter of this machine, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Adapter {
    /// What to select it by: `discrete:N`, `integrated:N`, `virtual:N`,
    /// `software`, or `other:N`.
    pub selector: String,
    /// The adapter's name.
    pub name: String,
    /// The graphics API: vulkan, metal, dx12, gl, webgpu.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// The largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Whether its shaders compute in 16-bit floats.
    pub f16: bool,
}

impl Device {
    /// Open an adapter: `default`, or one of [`adapters`](Self::adapters) by
    /// its selector.
    ///
    /// # Errors
    /// [`InferenceError::Device`] when there is no such adapter, or it does not
    /// open.
    #[cfg(not(target_family = "wasm"))]
    pub fn open(selector: &str) -> Result<Self, InferenceError> {
        let device = select(selector)?;
        let opened = guard("opening the adapter", || {
            burn_wgpu::try_init_setup::<burn_wgpu::AutoGraphicsApi>(
                &device,
                burn_wgpu::RuntimeOptions::default(),
            )
            .map_err(|e| e.to_string())
        })
        .map_err(|e| refused(e.to_string()))?;
        Self::opened(selector, device, opened)
    }

    /// As [`open`](Self::open) in a browser, where adapters come when they come:
    /// nothing there may wait.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_async(selector: &str) -> Result<Self, InferenceError> {
        let device = select(selector)?;
        let opened = burn_wgpu::try_init_setup_async::<burn_wgpu::AutoGraphicsApi>(
            &device,
            burn_wgpu::RuntimeOptions::default(),
        );
        let opened = opened.await.map_err(|e| e.to_string());
        Self::opened(selector, device, opened)
    }

    fn opened(
        selector: &str,
        device: WgpuDevice,
        opened: Result<burn_wgpu::WgpuSetup, String>,
    ) -> Result<Self, InferenceError> {
        let (name, wgpu) = match opened {
            Ok(setup) => (setup.adapter.get_info().name, Some(setup.device)),
            // It was opened before in this process, with the same options.
            Err(reason) if reason.contains("already") => (format!("adapter {selector}"), None),
            Err(reason) => return Err(refused(reason)),
        };
        Ok(Self { wgpu, ..Self::new(DispatchDevice::from(device), name)? })
    }

    /// Give the adapter back. What runs on it afterwards fails as on an adapter
    /// that is lost; it cannot be opened again in this process.
    pub fn close(&self) {
        if let Some(device) = &self.wgpu {
            device.destroy();
        }
    }

    /// Have `tell` called with the reason when the adapter is lost, be it by
    /// [`close`](Self::close). Only in a browser, where a device tells all who
    /// asked; natively it tells the last one, which is burn.
    #[cfg(target_family = "wasm")]
    pub fn on_lost(&self, tell: impl Fn(String) + Send + 'static) {
        if let Some(device) = &self.wgpu {
            device.set_device_lost_callback(move |_, reason| tell(reason));
        }
    }

    /// Open the best adapter that is hardware; none where there is none. A
    /// rasteriser in software is never faster than the CPU that it runs on.
    #[cfg(not(target_family = "wasm"))]
    pub fn open_hardware() -> Option<Self> {
        // A driver is loaded only where there is something to drive.
        let nodes = ["/dev/dri", "/dev/nvidiactl", "/dev/mali0", "/dev/kgsl-3d0", "/dev/dxg"];
        if cfg!(target_os = "linux") && !nodes.iter().any(|n| std::path::Path::new(n).exists()) {
            return None;
        }
        let hardware = |a: &Adapter| a.selector != "software";
        Self::adapters().iter().any(hardware).then(|| Self::open("default").ok()).flatten()
    }

    /// burn's CPU backend.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn burn_cpu() -> Result<Self, InferenceError> {
        Self::new(DispatchDevice::from(FlexDevice), "burn on the CPU".to_owned())
    }

    fn new(handle: DispatchDevice, name: String) -> Result<Self, InferenceError> {
        let read = guard("reading the device's settings", || {
            let bools = get_or_init_device_settings::<Dispatch>(&handle).bool_dtype;
            (bools, Dispatch::supports_dtype(&handle, BurnType::F16))
        });
        let (bools, has_f16) =
            read.map_err(|e| InferenceError::Device { reason: e.to_string() })?;
        Ok(Self { handle, name, bools, has_f16, wgpu: None })
    }

    /// The adapters of this machine that wgpu reaches.
    pub fn adapters() -> Vec<Adapter> {
        use burn_wgpu::wgpu::{self, DeviceType};
        let listed = guard("listing the adapters", || {
            let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
                backends: wgpu::Backends::PRIMARY,
                ..wgpu::InstanceDescriptor::new_without_display_handle()
            });
            let found = instance.enumerate_adapters(wgpu::Backends::PRIMARY);
            try_read_sync(found).unwrap_or_default()
        });
        let mut counts = std::collections::HashMap::new();
        listed
            .unwrap_or_default()
            .iter()
            .map(|adapter| {
                let info = adapter.get_info();
                let kind = match info.device_type {
                    DeviceType::DiscreteGpu => "discrete",
                    DeviceType::IntegratedGpu => "integrated",
                    DeviceType::VirtualGpu => "virtual",
                    DeviceType::Cpu => "software",
                    DeviceType::Other => "other",
                };
                let index = counts.entry(kind).or_insert(0u32);
                let selector =
                    if kind == "software" { kind.to_owned() } else { format!("{kind}:{index}") };
                *index += 1;
                Adapter {
                    selector,
                    name: info.name,
                    api: info.backend.to_string(),
                    driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
                    max_buffer_bytes: adapter.limits().max_buffer_size,
                    f16: adapter.features().contains(wgpu::Features::SHADER_F16),
                }
            })
            .collect()
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it computes in 16-bit floats.
    pub(super) fn has_f16(&self) -> bool {
        self.has_f16
    }

    /// How the device keeps bools.
    pub(super) fn bools(&self) -> BoolDType {
        self.bools
    }

    /// Copy an array to the device. Whole numbers of up to 16 bits are kept
    /// there as f32, which holds them exactly; wider ones as i32, where they
    /// fit.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] for what the device does not keep.
    pub(super) fn upload(&self, array: &Array) -> OpResult<DeviceTensor> {
        if array.is_empty() {
            return Err(OpError::unsupported("a tensor without elements"));
        }
        let shape = array.shape().to_vec();
        let physical = Shape::from(physical(&shape));
        let handle = &self.handle;
        let element = array.element();
        let Element::Plain(dtype) = element else {
            return Err(OpError::unsupported(format!("{element} on the device")));
        };
        let tensor = guard("copying to the device", || {
            Ok::<_, OpError>(match dtype {
                DType::F32 => Dispatch::float_from_data(
                    TensorData::new(array.elements::<f32>()?.to_vec(), physical),
                    handle,
                ),
                DType::F16 if self.has_f16 => Dispatch::float_from_data(
                    TensorData::new(array.elements::<f16>()?.to_vec(), physical),
                    handle,
                ),
                DType::I8 | DType::U8 | DType::I16 | DType::U16 => {
                    Dispatch::float_from_data(TensorData::new(array.to_f32s()?, physical), handle)
                }
                DType::I32 | DType::I64 | DType::U32 | DType::U64 => {
                    let narrow: Option<Vec<i32>> =
                        array.to_i64s()?.iter().map(|&v| i32::try_from(v).ok()).collect();
                    let narrow = narrow.ok_or_else(|| {
                        OpError::unsupported("whole numbers beyond 32 bits on the device")
                    })?;
                    Dispatch::int_from_data(TensorData::new(narrow, physical), handle)
                }
                DType::Bool => {
                    let bools: Vec<bool> = array.bools()?.iter().map(|&b| b != 0).collect();
                    let data = TensorData::new(bools, physical).convert_dtype(self.bools.into());
                    Dispatch::bool_from_data(data, handle)
                }
                DType::F16 | DType::BF16 | DType::F64 => {
                    return Err(OpError::unsupported(format!("{dtype} on the device")));
                }
            })
        })??;
        Ok(DeviceTensor { tensor, shape, element })
    }

    /// Copy a tensor from the device, and wait for it.
    ///
    /// # Errors
    /// [`OpError::Other`] with [`InferenceError::Device`] when the device is
    /// lost or out of memory; [`OpError::Unsupported`] in a browser, where
    /// nothing may wait.
    pub(super) fn download(&self, tensor: &DeviceTensor) -> OpResult<Array> {
        let DeviceTensor { tensor, shape, element } = tensor.clone();
        let read = guard("copying from the device", || try_read_sync(self.read(tensor)))?;
        let data = read
            .ok_or_else(|| OpError::unsupported("reading back without waiting"))?
            .map_err(|e| lost(&e))?;
        // What was asked for may still turn out to be lost when it is looked at.
        guard("reading what the device gave", || from_data(data, element, &shape))?
    }

    /// As [`download`](Self::download), when it is there.
    ///
    /// # Errors
    /// As [`download`](Self::download).
    pub(super) async fn download_async(&self, tensor: &DeviceTensor) -> OpResult<Array> {
        let DeviceTensor { tensor, shape, element } = tensor.clone();
        let data = self.read(tensor).await.map_err(|e| lost(&e))?;
        guard("reading what the device gave", || from_data(data, element, &shape))?
    }

    async fn read(&self, tensor: DispatchTensor) -> Result<TensorData, String> {
        let storage = tensor.dtype();
        let read = if storage.is_float() {
            Dispatch::float_into_data(tensor).await
        } else if storage.is_bool() {
            Dispatch::bool_into_data(tensor).await
        } else {
            Dispatch::int_into_data(tensor).await
        };
        read.map_err(|e| e.to_string())
    }
}

fn refused(reason: String) -> InferenceError {
    InferenceError::Device { reason }
}

/// The adapter of a selector.
fn select(selector: &str) -> Result<WgpuDevice, InferenceError> {
    let unknown = || {
        refused(format!(
            "{selector:?} names no adapter; adapters are named default, discrete:N, \
             integrated:N, virtual:N, software, other:N"
        ))
    };
    let kind = match selector.split_once(':') {
        None if selector == "default" => WgpuDeviceKind::DefaultDevice,
        None if selector == "software" => WgpuDeviceKind::Cpu,
        Some((kind, index)) => {
            let index = index.parse().map_err(|_| unknown())?;
            match kind {
                "discrete" => WgpuDeviceKind::DiscreteGpu(index),
                "integrated" => WgpuDeviceKind::IntegratedGpu(index),
                "virtual" => WgpuDeviceKind::VirtualGpu(index),
                "other" => WgpuDeviceKind::Other(index),
                _ => return Err(unknown()),
            }
        }
        None => return Err(unknown()),
    };
    // OpenGL has no compute shaders to speak of, and asking it disturbs a
    // machine without a display.
    let api = if cfg!(target_os = "macos") {
        WgpuBackend::Metal
    } else if cfg!(target_os = "windows") {
        WgpuBackend::Dx12
    } else if cfg!(target_family = "wasm") {
        WgpuBackend::WebGpu
    } else {
        WgpuBackend::Vulkan
    };
    Ok(WgpuDevice::new(kind).on(api))
}

/// What came from the device as an array of the element type that it stands
/// for.
fn from_data(data: TensorData, element: Element, shape: &[usize]) -> OpResult<Array> {
    let broken = |e: &dyn fmt::Debug| lost(&format!("it gave {e:?}"));
    let Element::Plain(dtype) = element else { return Err(broken(&element)) };
    match dtype {
        DType::F32 if data.dtype() == BurnType::F32 => {
            Array::new(shape, data.try_to_vec::<f32>().map_err(|e| broken(&e))?)
        }
        DType::F16 if data.dtype() == BurnType::F16 => {
            Array::new(shape, data.try_to_vec::<f16>().map_err(|e| broken(&e))?)
        }
        DType::Bool => {
            let bools: Vec<bool> = data.iter::<bool>().collect();
            Array::from_bools(shape, &bools)
        }
        _ => {
            let wide: Vec<i64> = if data.dtype().is_float() {
                data.iter::<f64>().map(|v| v as i64).collect()
            } else {
                data.iter::<i64>().collect()
            };
            let lanes = match dtype {
                DType::I8 => Lanes::One(Arc::new(wide.iter().map(|&v| v as i8 as u8).collect())),
                DType::U8 => Lanes::One(Arc::new(wide.iter().map(|&v| v as u8).collect())),
                DType::I16 | DType::U16 => {
                    Lanes::Two(Arc::new(wide.iter().map(|&v| v as u16).collect()))
                }
                DType::I32 | DType::U32 => {
                    Lanes::Four(Arc::new(wide.iter().map(|&v| v as u32).collect()))
                }
                DType::I64 | DType::U64 => {
                    Lanes::Eight(Arc::new(wide.iter().map(|&v| v as u64).collect()))
                }
                other => return Err(broken(&other)),
            };
            Array::from_lanes(element, shape, lanes)
        }
    }
}

/// A device's tensors have at least one dimension.
fn physical(shape: &[usize]) -> Vec<usize> {
    if shape.is_empty() { vec![1] } else { shape.to_vec() }
}

/// A tensor on a device.
#[derive(Clone)]
pub struct DeviceTensor {
    /// The data: floats, i32 or bools; see [`Device::upload`]. A tensor of no
    /// dimensions has one there.
    pub(super) tensor: DispatchTensor,
    pub(super) shape: Vec<usize>,
    pub(super) element: Element,
}

/// How a device keeps the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    Float,
    Int,
    Bool,
}

impl DeviceTensor {
    /// A result of burn's, of the shape that it has there.
    pub(super) fn new(tensor: DispatchTensor, element: Element) -> Self {
        let shape = tensor.shape().to_vec();
        Self { tensor, shape, element }
    }

    pub(super) fn storage(&self) -> Storage {
        let dtype = self.tensor.dtype();
        if dtype.is_float() {
            Storage::Float
        } else if dtype.is_bool() {
            Storage::Bool
        } else {
            Storage::Int
        }
    }

    /// The element type that it stands for.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Bytes on the device.
    pub fn size_bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.tensor.dtype().size()) as u64
    }

    /// The same elements in another shape of as many.
    pub(super) fn reshape(&self, shape: &[usize]) -> OpResult<Self> {
        check_rank(shape.len())?;
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return Err(OpError::invalid(format!("{:?} as {shape:?}", self.shape)));
        }
        let target = physical(shape);
        let tensor = self.tensor.clone();
        let tensor = if tensor.shape().to_vec() == target {
            tensor
        } else {
            let target = Shape::from(target);
            match self.storage() {
                Storage::Float => Dispatch::float_reshape(tensor, target),
                Storage::Int => Dispatch::int_reshape(tensor, target),
                Storage::Bool => Dispatch::bool_reshape(tensor, target),
            }
        };
        Ok(Self { tensor, shape: shape.to_vec(), element: self.element })
    }
}

impl fmt::Debug for DeviceTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceTensor({} {:?})", self.element, self.shape)
    }
}

/// Two tensors on a device are compared there or not at all.
impl PartialEq for DeviceTensor {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

/// The float type that a float tensor is kept in.
pub(super) fn float_type(tensor: &DispatchTensor) -> FloatDType {
    match tensor.dtype() {
        BurnType::F16 => FloatDType::F16,
        _ => FloatDType::F32,
    }
}

/// Indices on the device.
pub(super) const INDEX: IntDType = IntDType::I32;

fn lost(reason: &str) -> OpError {
    InferenceError::Device { reason: reason.to_owned() }.into()
}

/// Call into burn, and turn a panic there into an error: it panics on what it
/// cannot do and on a lost device.
pub(super) fn guard<T>(doing: &str, call: impl FnOnce() -> T) -> OpResult<T> {
    std::panic::catch_unwind(AssertUnwindSafe(call))
        .map_err(|payload| lost(&format!("panic while {doing}: {}", panic_message(&*payload))))
}

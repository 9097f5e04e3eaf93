// SPDX-License-Identifier: MPL-2.0

//! Streams, which take launches one by one, or many as a graph.

use std::ffi::c_void;
use std::ptr;
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUDA_KERNEL_NODE_PARAMS, CUfunction, CUgraph, CUgraphExec, CUgraphNode, CUresult, CUstream, CUstream_flags,
};

use super::device::Device;
use crate::backend::cuda::batch::{Arguments, Batch, Launch, LaunchSink};
use crate::error::Result;

/// What a driver says that has no graphs like ours, or no memory for one. Nothing is broken then, and the launches can be made
/// one by one.
const REFUSALS: [CUresult; 4] = [
    CUresult::CUDA_ERROR_NOT_SUPPORTED,
    CUresult::CUDA_ERROR_INVALID_VALUE,
    CUresult::CUDA_ERROR_OUT_OF_MEMORY,
    CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
];

/// An executable graph. The nodes belong to the graph that it was made of.
pub(super) struct Graph {
    device: Arc<Device>,
    graph: CUgraph,
    nodes: Vec<CUgraphNode>,
    executable: CUgraphExec,
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        if !self.executable.is_null() {
            // SAFETY: it is alive, and this is its last use; if it still runs, the driver frees it when it is done.
            unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
        if !self.graph.is_null() {
            // SAFETY: it is alive, and this is its last use.
            unsafe { sys::cuGraphDestroy(self.graph) };
        }
    }
}

/// A stream that does not wait for the default one. The device must be bound for all that is done with it.
pub(super) struct Stream {
    device: Arc<Device>,
    stream: CUstream,
}

// SAFETY: any thread that has bound the device may use its streams.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// A launch as graphs have it. The driver copies the arguments before it returns.
fn node(launch: &Launch<CUfunction>, parameters: &mut [*mut c_void; 1]) -> CUDA_KERNEL_NODE_PARAMS {
    let [x, y, z] = launch.grid;
    CUDA_KERNEL_NODE_PARAMS {
        func: launch.function,
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: launch.kernel.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.kernel.shared,
        kernelParams: parameters.as_mut_ptr(),
        extra: ptr::null_mut(),
        kern: ptr::null_mut(),
        ctx: ptr::null_mut(),
    }
}

/// The list of a kernel's parameters, of which there is one.
fn parameters(args: Arguments<'_>) -> [*mut c_void; 1] {
    [args.as_ptr().cast_mut().cast()]
}

impl Stream {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        let mut stream = ptr::null_mut();
        // SAFETY: the driver writes one pointer.
        let code = unsafe { sys::cuStreamCreate(&mut stream, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        device.check("cuStreamCreate", code)?;
        Ok(Self { device: device.clone(), stream })
    }

    /// What the driver calls it.
    pub(super) fn handle(&self) -> CUstream {
        self.stream
    }

    /// Waits for it after an error or before an end, to leave no copy under way. The outcome says nothing new.
    pub(super) fn synchronize(&self) {
        // SAFETY: the stream is alive.
        unsafe { sys::cuStreamSynchronize(self.stream) };
    }

    /// The outcome of a call about graphs: false if the driver refuses, which is remembered.
    fn accepted(&self, call: &str, code: CUresult) -> Result<bool> {
        match self.device.check(call, code) {
            Err(error) if REFUSALS.contains(&code) => {
                self.device.refuse_graphs(&error);
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it is alive, and this is its last use.
            unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
    }
}

impl LaunchSink for Stream {
    type Function = CUfunction;
    type Graph = Graph;

    fn launch(&self, launch: &Launch<CUfunction>, args: Arguments<'_>) -> Result<()> {
        let [x, y, z] = launch.grid;
        let mut parameters = parameters(args);
        // SAFETY: the kernel takes one parameter, which `Args` promises to be laid out as it is there, and which the
        // driver copies before it returns.
        let code = unsafe {
            sys::cuLaunchKernel(
                launch.function,
                x,
                y,
                z,
                launch.kernel.threads,
                1,
                1,
                launch.kernel.shared,
                self.stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.device.check(format_args!("cuLaunchKernel of {}", launch.kernel.name), code)
    }

    fn build(&self, batch: &Batch<CUfunction>) -> Result<Option<Graph>> {
        let (graph, nodes, executable) = (ptr::null_mut(), Vec::with_capacity(batch.len()), ptr::null_mut());
        let mut built = Graph { device: self.device.clone(), graph, nodes, executable };
        // SAFETY: the driver writes one pointer.
        if !self.accepted("cuGraphCreate", unsafe { sys::cuGraphCreate(&mut built.graph, 0) })? {
            return Ok(None);
        }
        for (launch, args) in batch.iter() {
            let (mut added, mut parameters) = (ptr::null_mut(), parameters(args));
            let before = built.nodes.last().map_or(&[][..], slice::from_ref);
            // SAFETY: the graph and its node before are alive; for the parameters see `launch`. The driver writes one pointer.
            let code = unsafe {
                let (node, before_ptr) = (node(launch, &mut parameters), before.as_ptr());
                sys::cuGraphAddKernelNode_v2(&mut added, built.graph, before_ptr, before.len(), &node)
            };
            if !self.accepted("cuGraphAddKernelNode", code)? {
                return Ok(None);
            }
            built.nodes.push(added);
        }
        // SAFETY: the graph is alive; the driver writes one pointer.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut built.executable, built.graph, 0) };
        if !self.accepted("cuGraphInstantiate", code)? {
            return Ok(None);
        }
        // A lack of memory is to show here, where nothing has run yet, and not when it is launched.
        // SAFETY: graph and stream are alive.
        let code = unsafe { sys::cuGraphUpload(built.executable, self.stream) };
        Ok(self.accepted("cuGraphUpload", code)?.then_some(built))
    }

    fn set(&self, graph: &mut Graph, number: usize, launch: &Launch<CUfunction>, args: Arguments<'_>) -> Result<bool> {
        let mut parameters = parameters(args);
        let node = node(launch, &mut parameters);
        // SAFETY: graph and node are alive; for the parameters see `launch`. Runs that are under way keep theirs.
        let code = unsafe { sys::cuGraphExecKernelNodeSetParams_v2(graph.executable, graph.nodes[number], &node) };
        self.accepted("cuGraphExecKernelNodeSetParams", code)
    }

    fn run(&self, graph: &Graph) -> Result<()> {
        // Whether a launch that failed has begun cannot be told, so a failure here is an error whatever it is.
        // SAFETY: graph and stream are alive.
        let code = unsafe { sys::cuGraphLaunch(graph.executable, self.stream) };
        self.device.check("cuGraphLaunch", code)
    }
}

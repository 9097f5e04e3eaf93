// SPDX-License-Identifier: MPL-2.0

//! A buffer pool of the test's own, which gives the element the buffers that it writes its output into.

use std::sync::OnceLock;

use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use crate::rig::Rig;

type Change = Box<dyn Fn(&mut gst::BufferRef) + Send + Sync>;

mod imp {
    use super::*;

    #[derive(Default)]
    pub struct ChangedPool {
        pub change: OnceLock<Change>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for ChangedPool {
        const NAME: &'static str = "TestChangedPool";
        type Type = super::ChangedPool;
        type ParentType = gst::BufferPool;
    }

    impl ObjectImpl for ChangedPool {}
    impl GstObjectImpl for ChangedPool {}

    impl BufferPoolImpl for ChangedPool {
        fn alloc_buffer(&self, params: Option<&gst::BufferPoolAcquireParams>) -> Result<gst::Buffer, gst::FlowError> {
            let mut buffer = self.parent_alloc_buffer(params)?;
            self.change.get().unwrap()(buffer.make_mut());
            Ok(buffer)
        }
    }
}

glib::wrapper! {
    /// A pool whose buffers have been changed.
    pub struct ChangedPool(ObjectSubclass<imp::ChangedPool>) @extends gst::BufferPool, gst::Object;
}

/// From the next caps on, the element writes into buffers of the right size that went through `change`.
pub fn offer_pool(rig: &Rig, change: impl Fn(&mut gst::BufferRef) + Send + Sync + Copy + 'static) {
    rig.element.static_pad("src").unwrap().add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, move |_, info| {
        let Some(gst::PadProbeData::Query(query)) = &mut info.data else { unreachable!() };
        let gst::QueryViewMut::Allocation(allocation) = query.view_mut() else { return gst::PadProbeReturn::Ok };
        let info = gst_video::VideoInfo::from_caps(&allocation.get_owned().0.unwrap()).unwrap();
        let pool: ChangedPool = glib::Object::new();
        assert!(pool.imp().change.set(Box::new(change)).is_ok());
        allocation.add_allocation_pool(Some(&pool), info.size() as u32, 0, 0);
        gst::PadProbeReturn::Handled
    });
}

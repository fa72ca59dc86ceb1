//! Messages in frames, and the ends of a stream of frames.

use crate::internal::v1::FramesStatus;
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

/// Appends a message to a buffer.
pub fn append(message: &impl Message, buffer: &mut Vec<u8>) {
    message.encode(buffer).expect("a vector grows");
}

impl FramesStatus {
    /// The status in the last frame of a stream.
    pub fn read(frame: Bytes) -> Status {
        match FramesStatus::decode(frame) {
            Ok(FramesStatus { code, message, details }) => {
                Status::with_details(Code::from_i32(code), message, details.into())
            }
            Err(error) => Status::internal(format!("the last frame says nothing: {error}")),
        }
    }
}

impl From<&Status> for FramesStatus {
    fn from(status: &Status) -> FramesStatus {
        FramesStatus {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: status.details().to_vec(),
        }
    }
}

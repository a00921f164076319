//! What a message on the queue is: how it is decoded ([`wire`]), what proves where it comes from ([`signature`]), and what of it is made
//! unreadable before it is kept or shown ([`mask`]), and what else it can be found by ([`references`]). Bytes in, values out.
//!
//! What must not live here: async, clocks, files, AMQP, HTTP, SQL, and any rule about money.

#![forbid(unsafe_code)]

pub mod mask;
pub mod references;
pub mod signature;
pub mod wire;

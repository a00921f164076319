//! The message on the queue: what is a callback, what is not and why, and what makes two messages the same.

//! Every provider against the real thing, and what the tests of providers stand on.
//!
//! These run once: which database is below makes no difference to what a provider is asked.

mod background;
mod cells;
mod claude;
mod door;
mod endpoints;
mod http;
mod jobs;
mod langflow;
mod langgraph;
mod matrix;
mod n8n;
mod ollama;
mod openai;
mod quota;
mod real;
mod replay;
mod secrets;
mod servers;
mod simulated;

//! Integration tests: the real daemon against a real redis-server and strict stand-ins over HTTP.

mod support;

pub mod custom_resource_definition;
pub mod defaults;
pub mod definition;
pub mod go_regex;
pub mod internal;
pub mod schema;
pub mod selectable;
pub mod structural;

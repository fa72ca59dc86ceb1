//! The web console as files: a path becomes the bytes that a gateway serves for it.
//!
//! * The files are the same for every client, and hold no data. The pages ask `/v1/…` for that.
//! * [`HEADERS`] belong to every answer with a file.
//!
//! ```
//! let page = palisade_console::file("/").unwrap();
//! assert_eq!(page.content_type, "text/html; charset=utf-8");
//! assert!(palisade_console::file("/console/nothing.js").is_none());
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};

/// One file of the console.
#[derive(Debug)]
pub struct File {
    /// The path of its URL.
    pub path: &'static str,
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The content.
    pub bytes: &'static [u8],
}

impl File {
    /// The value of `etag`: other content has another tag.
    pub fn etag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

/// The headers of every answer with a file. Browsers ask each time whether a file is still the same,
/// so that a page never runs modules of two versions.
pub const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' \
         data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal $name:literal $content_type:ident,)*) => {
        &[$(File {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../files/", $name)),
        }),*]
    };
}

/// All files.
pub const FILES: &[File] = files! {
    "/" "index.html" HTML,
    "/console/style.css" "style.css" CSS,
    "/console/icon.svg" "icon.svg" SVG,
    "/console/app.js" "app.js" JS,
    "/console/api.js" "api.js" JS,
    "/console/dom.js" "dom.js" JS,
    "/console/text.js" "text.js" JS,
    "/console/table.js" "table.js" JS,
    "/console/store.js" "store.js" JS,
    "/console/locks.js" "locks.js" JS,
    "/console/lock.js" "lock.js" JS,
    "/console/break.js" "break.js" JS,
    "/console/sessions.js" "sessions.js" JS,
    "/console/cluster.js" "cluster.js" JS,
    "/console/topology.js" "topology.js" JS,
    "/console/plan.js" "plan.js" JS,
    "/console/plot.js" "plot.js" JS,
};

/// The file of a path. `None` if there is no such file.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

// Scores a request in JSON through one C function: score BUNDLE REQUEST
// rustc -O -L LIBRARY_FOLDER score.rs
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::{null, null_mut};

#[rustfmt::skip]
#[link(name = "rexit")]
extern "C" {
    fn rexit_bundle_open(path: *const c_char, options: *const c_void, bundle: *mut *mut c_void) -> c_int;
    fn rexit_session_create(bundle: *const c_void, options: *const c_void, session: *mut *mut c_void) -> c_int;
    fn rexit_session_score_json(session: *mut c_void, request: *const u8, bytes: usize, options: *const c_void,
                                answer: *mut *const c_char, answer_bytes: *mut usize, stats: *mut c_void) -> c_int;
    fn rexit_last_error() -> *const c_char;
}

// The bundle and the session live as long as the process: no rexit_session_destroy, no rexit_bundle_close.
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let (path, request) = (CString::new(words[1].as_str()).unwrap(), &words[2]);
    let (mut bundle, mut session, mut answer, mut bytes) = (null_mut(), null_mut(), null(), 0);
    unsafe {
        let failed = rexit_bundle_open(path.as_ptr(), null(), &mut bundle) != 0
            || rexit_session_create(bundle, null(), &mut session) != 0
            || rexit_session_score_json(session, request.as_ptr(), request.len(), null(), &mut answer, &mut bytes, null_mut()) != 0;
        let line = CStr::from_ptr(if failed { rexit_last_error() } else { answer }).to_string_lossy();
        println!("{line}");
        std::process::exit(failed as i32);
    }
}

# Toolchain: Linux with musl in place of glibc, from Zig's C++ compiler. ZIG in the environment is Zig's program.
#   ZIG=… cmake -DCMAKE_TOOLCHAIN_FILE=runtime/cmake/x86_64-linux-musl.cmake …
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
# -dynamic: a static program cannot open libraries. Without optimization Zig adds checks of undefined behaviour, and has no
# library for them.
set(CMAKE_C_COMPILER $ENV{ZIG} cc -target x86_64-linux-musl -dynamic -fno-sanitize=undefined)
set(CMAKE_CXX_COMPILER $ENV{ZIG} c++ -target x86_64-linux-musl -dynamic -fno-sanitize=undefined)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY NEVER)

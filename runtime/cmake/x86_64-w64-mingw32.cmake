# Toolchain: Windows on x86-64 from Debian's cross compiler. The library alone: rexit-run and the tests need POSIX.
#   cmake -DCMAKE_TOOLCHAIN_FILE=runtime/cmake/x86_64-w64-mingw32.cmake -DREXIT_TESTS=OFF -DREXIT_PROGRAM=OFF …
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER x86_64-w64-mingw32-gcc-posix)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_FIND_ROOT_PATH /usr/x86_64-w64-mingw32)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)

/* Included before everything else in a cross build, so that what Debian's newer headers make of a program runs with JetPack 6's
 * glibc 2.35 and with libstdc++ of GCC 12. */
#include <features.h>
/* C23's strtol, strtoll and sscanf, which take 0b11 for a number, have names of their own (__isoc23_strtoll) since glibc 2.38;
 * the macro's name has changed since. */
#undef __GLIBC_USE_C2X_STRTOL
#define __GLIBC_USE_C2X_STRTOL 0
#undef __GLIBC_USE_C23_STRTOL
#define __GLIBC_USE_C23_STRTOL 0
#ifdef __cplusplus
/* Since GCC 13 <iostream> leaves it to the library to make std::cout, and asks for a library that does. */
#include <bits/c++config.h>
#undef _GLIBCXX_USE_INIT_PRIORITY_ATTRIBUTE
#endif

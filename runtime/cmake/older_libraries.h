/* Included before everything else in a cross build, so that a program built with Debian's newer headers runs with JetPack 6's
 * glibc 2.35 and with GCC 12's libstdc++. */
#include <features.h>
/* C23's strtol, strtoll and sscanf, which accept 0b11, have names of their own (__isoc23_strtoll) since glibc 2.38;
 * the macro's name has changed since. */
#undef __GLIBC_USE_C2X_STRTOL
#define __GLIBC_USE_C2X_STRTOL 0
#undef __GLIBC_USE_C23_STRTOL
#define __GLIBC_USE_C23_STRTOL 0
#ifdef __cplusplus
/* Since GCC 13 <iostream> leaves the initialization of std::cout to the library, and requires one that does it. */
#include <bits/c++config.h>
#undef _GLIBCXX_USE_INIT_PRIORITY_ATTRIBUTE
#endif

// Included before everything else by what instantiates nlohmann's parser, which calls strtoll and strtoull. From glibc 2.38 on,
// <stdlib.h> maps them to their C23 versions in C++, and a library built there would not load on an older system; JSON needs only
// the old ones.
#pragma once

#include <climits>  // glibc's <features.h>

#undef __GLIBC_USE_C23_STRTOL
#define __GLIBC_USE_C23_STRTOL 0
#undef __GLIBC_USE_C2X_STRTOL  // the same, before 2.41
#define __GLIBC_USE_C2X_STRTOL 0

/* A double of libcuda.so.1: one GPU, an Orin of compute capability 8.7. Attributes 75 and 76 are the capability's two numbers. */
#include <string.h>

int cuInit(unsigned flags) { return (int)flags; }

int cuDeviceGet(int* device, int ordinal) {
  *device = 5;
  return ordinal == 0 ? 0 : 101;
}

int cuDeviceGetName(char* name, int length, int device) {
  if (device != 5 || length < 5) return 1;
  strcpy(name, "Orin");
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (device != 5) return 1;
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return 0;
}

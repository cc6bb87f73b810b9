/* What rexit asks of libnvinfer first, as an older TensorRT answers. */
int getInferLibVersion(void) { return 80600; }

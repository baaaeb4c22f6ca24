#define POCKETVLM_ISA avx512vnni
#include "peak/peak_kernel.h"

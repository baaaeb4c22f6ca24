#define POCKETVLM_ISA avx512bf16
#include "linear/linear_kernel.h"

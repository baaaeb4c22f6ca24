#define POCKETVLM_ISA avx512bf16
#include "attention/views_kernel.h"

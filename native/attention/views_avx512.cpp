#define POCKETVLM_ISA avx512
#include "attention/views_kernel.h"

-- Insertion of an id into a timeline (rule 1), for push.lua and deliver.lua. Both have capacity and slack as their first
-- two common arguments.
-- A timeline: ids strictly descending, then the floor; while it is rebuilt the last element is !token:floor.
-- Ids are decimal text: longer is greater, equal lengths compare as bytes. Never tonumber: it would round.
local capacity, slack = tonumber(ARGV[2]), tonumber(ARGV[3])
local NEAR = 16

local function greater(a, b)
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local function plain(element)
  if string.byte(element, 1) == 33 then
    return string.match(element, ':(%d+)$')
  end
  return element
end

-- Back to capacity ids: the greatest one dropped is the new floor.
local function trim(key)
  local floor = redis.call('LINDEX', key, capacity)
  local building = string.match(redis.call('LINDEX', key, -1), '^!%w+:') or ''
  redis.call('LTRIM', key, 0, capacity - 1)
  redis.call('RPUSH', key, building .. floor)
end

-- The first element that is not greater than id; there is one, the floor.
local function successor(key, id)
  local near = redis.call('LRANGE', key, 0, NEAR - 1)
  for at = 1, #near do
    if not greater(plain(near[at]), id) then
      return near[at]
    end
  end
  -- Not near the head, as when a follow is backfilled: halve what is left, it is sorted.
  local low, high = #near, redis.call('LLEN', key) - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if greater(plain(redis.call('LINDEX', key, middle)), id) then
      low = middle + 1
    else
      high = middle
    end
  end
  return redis.call('LINDEX', key, low)
end

local function insert(key, id, head)
  local length
  if greater(id, plain(head)) then
    length = redis.call('LPUSH', key, id)
  elseif greater(id, plain(redis.call('LINDEX', key, -1))) then
    local next = successor(key, id)
    if next == id then
      return
    end
    length = redis.call('LINSERT', key, 'BEFORE', next, id)
  else
    return
  end
  if length > capacity + slack + 1 then
    trim(key)
  end
end

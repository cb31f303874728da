#!lua flags=allow-cross-slot-keys
-- Insert ids into timelines (rule 1). Common: capacity, slack. Items: key, id. 0 cold, 1 done.
-- A timeline: ids strictly descending, then the floor; while it is rebuilt the last element is !token:floor.
-- Ids are decimal text: longer is greater, equal lengths compare as bytes. Never tonumber: it would round.
local capacity, slack = tonumber(ARGV[2]), tonumber(ARGV[3])
local WALK = 32

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

local function trim(key)
  local floor = redis.call('LINDEX', key, capacity)
  local building = string.match(redis.call('LINDEX', key, -1), '^!%w+:') or ''
  redis.call('LTRIM', key, 0, capacity - 1)
  redis.call('RPUSH', key, building .. floor)
end

local function insert(key, id, head)
  if greater(id, plain(head)) then
    if redis.call('LPUSH', key, id) > capacity + slack + 1 then
      trim(key)
    end
    return
  end
  if not greater(id, plain(redis.call('LINDEX', key, -1))) then
    return
  end
  local start = 0
  while true do
    local chunk = redis.call('LRANGE', key, start, start + WALK - 1)
    for _, element in ipairs(chunk) do
      local at = plain(element)
      if at == id then
        return
      end
      if greater(id, at) then
        if redis.call('LINSERT', key, 'BEFORE', element, id) > capacity + slack + 1 then
          trim(key)
        end
        return
      end
    end
    if #chunk < WALK then
      return
    end
    start = start + WALK
  end
end

local answer = {}
local n = 0
for place = 4, #ARGV, 2 do
  local key, id = ARGV[place], ARGV[place + 1]
  local head = redis.pcall('LINDEX', key, 0)
  n = n + 1
  if not head then
    answer[n] = 0
  elseif type(head) == 'table' then
    answer[n] = head
  else
    insert(key, id, head)
    answer[n] = 1
  end
end
return answer
